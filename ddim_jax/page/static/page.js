// The page: its settings, its parts, what runs, and what is said of it.

import { Engine, Stopped } from "./engine.js";
import { png } from "./pictures.js";
import { latents } from "./sampler.js";
import { DEFAULTS, format, parse } from "./state.js";
import draw from "./parts/draw.js";
import own from "./parts/own.js";
import steps from "./parts/steps.js";
import table from "./parts/table.js";
import walk from "./parts/walk.js";

const NAMES = {
  ddim: "DDIM",
  ddpm: "DDPM",
  "ddpm large variance": "DDPM, large variance",
  dpmpp_2m: "DPM-Solver++ (2M)",
  plms: "PLMS",
  unipc: "UniPC",
};
const get = (id) => document.getElementById(id);
const settings = get("settings");

/** The parts by name. What a part has drawn is its `results`: arrays by name, and what is saved is made of them. */
export const parts = { draw, steps, walk, own, table };

/** What the parts are given. */
export const app = {
  engine: new Engine(),
  model: null,
  tables: [],
  size: 0, // numbers of a picture
  state: { ...DEFAULTS },

  /** Changes the state, and the address with it. */
  set(changes) {
    Object.assign(app.state, changes);
    history.replaceState(null, "", format(app.state));
  },

  /** The steps S that this part uses. */
  get steps() {
    const known = stepsOf(parts[app.state.part], app.state.solver);
    return known.includes(app.state.steps) ? app.state.steps : nearest(known, parts[app.state.part].steps);
  },

  /** The table of a solver at S steps. */
  table(solver, steps, eta = 0) {
    return app.tables.find(
      (each) =>
        each.solver === solver &&
        each.steps === steps &&
        (solver !== "ddim" || Math.abs(each.eta - eta) < 1e-9) &&
        (solver !== "encode" || each.ask === "departure"),
    );
  },

  /** The table that the settings name. */
  chosen: (steps = app.steps) => app.table(app.state.solver, steps, app.state.eta),

  /** The numbers of steps that there are tables for, rising. */
  stepsOf: (solver) => stepsOf({}, solver),

  latents: (indices, seed = app.state.seed) => latents(seed, indices, app.size),

  /** The class of the settings as text, "" where the network is not told one. */
  get chosenClass() {
    const own = parts[app.state.part].untold ? "" : String(Math.floor(app.model.num_classes / 2)); // one in the middle
    return app.state.label ?? own;
  },

  /** The class as the network is told it; one stands for "not told". */
  get label() {
    return app.chosenClass === "" || !app.model.num_classes ? app.model.null_label : Number(app.chosenClass);
  },

  /**
   * Runs `task`, and stops what ran before: the last wish wins. The task is given a function that samples,
   * (table, {x, keys}, options) -> Promise of the end, and which counts rows towards `total`.
   */
  async work(what, total, task) {
    const mine = ++turn;
    app.engine.stop();
    busy(true);
    if (what) say(what);
    const began = performance.now();
    let rows = 0;
    progress(0);
    const sample = async (steps, { x, keys = [] }, { label = app.label, guidance = app.state.guidance, onRow } = {}) => {
      if (mine !== turn) throw new Stopped();
      const labels = Array(x.length / app.size).fill(label);
      const weight = label === app.model.null_label || !app.model.num_classes ? 1 : guidance;
      const end = await app.engine.run({ table: plain(steps), x, keys, labels, weight }, (row) => {
        rows += labels.length;
        progress(rows / total);
        onRow?.(row);
      });
      if (mine !== turn) throw new Stopped();
      if (!end.every(Number.isFinite)) throw new Error("The numbers grew without end: no picture comes of these weights.");
      return end;
    };
    try {
      await task(sample);
      if (mine === turn) say(`Done, in ${((performance.now() - began) / 1000).toFixed(1)} s. ${app.device}.`);
      return true;
    } catch (error) {
      if (mine === turn) say(error instanceof Stopped ? "Stopped." : error.message);
      if (!(error instanceof Stopped)) console.warn(error.message);
      return false;
    } finally {
      if (mine === turn) busy(false);
    }
  },

  /** As `work`, for what follows a slider: one run is finished before the newest wish is taken up. */
  async live(total, task) {
    wish = { total, task };
    if (following) return;
    following = true;
    while (wish) {
      const next = wish;
      wish = null;
      await app.work("", next.total, next.task);
    }
    following = false;
  },

  say,
};

let turn = 0;
let wish = null;
let following = false;

const plain = ({ t, s, x0, eps, noise }) => ({ t, s, x0, eps, noise });
const nearest = (numbers, to) => numbers.reduce((best, n) => (Math.abs(n - to) < Math.abs(best - to) ? n : best));

function stepsOf(part, solver) {
  const known = app.tables.filter((each) => each.solver === solver).map((each) => each.steps);
  return [...new Set(known)].filter((steps) => steps <= (part.largest ?? Infinity)).sort((a, b) => a - b);
}

function say(text) {
  get("status").textContent = text;
}

function progress(fraction) {
  if (fraction === null) get("progress").removeAttribute("value");
  else get("progress").value = fraction;
}

function busy(is) {
  get("stop").disabled = !is;
  document.body.toggleAttribute("data-busy", is);
  if (!is) progress(0);
}

function refuse(message) {
  get("problem").textContent = message;
  get("problem").hidden = false;
  say("The page cannot draw.");
  busy(false);
}

/** Puts the state into the settings, and shows those that the part has. */
function show() {
  const { state } = app;
  const part = parts[state.part];
  for (const [name, each] of Object.entries(parts)) {
    get(`part-${name}`).hidden = each !== part;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (each === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const solvers = solversOf(part);
  if (!solvers.includes(state.solver)) state.solver = "ddim";
  options("solver", solvers.map((name) => [name, NAMES[name] ?? name]), state.solver);
  options("steps", stepsOf(part, state.solver).map((steps) => [steps, steps]), app.steps);
  const classes = Array.from({ length: app.model.num_classes ?? 0 }, (_, n) => [String(n), String(n)]);
  options("label", app.model.null_label === null ? classes : [...classes, ["", "not told"]], app.chosenClass);
  for (const name of ["eta", "guidance", "seed"]) settings.elements[name].value = state[name];
  for (const field of settings.querySelectorAll("[data-field]")) {
    const name = field.dataset.field;
    const conditional = name === "label" || name === "guidance";
    field.hidden = !part.fields.includes(name) || (conditional && !app.model.num_classes) || (name === "eta" && state.solver !== "ddim");
  }
  settings.elements.guidance.disabled = app.label === app.model.null_label;
  get("draw-again").hidden = Boolean(part.encodes); // that part has a button of its own
  outputs();
}

/** Solvers that a part can use: a walk needs one whose latent decides alone. */
function solversOf(part) {
  const names = [...new Set(app.tables.map((each) => each.solver))].filter((name) => name !== "encode");
  return part.still ? names.filter((name) => app.tables.some((each) => each.solver === name && each.noise.every((w) => w === 0))) : names;
}

function options(name, pairs, chosen) {
  settings.elements[name].replaceChildren(...pairs.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

/** Beside each slider, its number. */
function outputs() {
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const value = slider.parentElement.querySelector(".value");
    if (value && value.id === "") value.textContent = Number(slider.value).toFixed(slider.step === "0.01" ? 2 : 1);
  }
}

function open(part) {
  app.engine.stop();
  app.set({ part, steps: null });
  show();
  parts[part].run(app);
}

function listen() {
  settings.addEventListener("submit", (event) => event.preventDefault());
  settings.addEventListener("input", outputs);
  settings.addEventListener("change", ({ target }) => {
    if (!target.checkValidity()) return say("A seed is a whole number from 0 to 2147483647.");
    const isNumber = ["steps", "eta", "seed", "guidance"].includes(target.name);
    app.set({ [target.name]: isNumber ? Number(target.value) : target.value, ...(target.name === "steps" ? {} : parts[app.state.part].forget) });
    show();
    parts[app.state.part].run(app);
  });
  get("another").addEventListener("click", () => {
    app.set({ seed: Math.floor(Math.random() * 1e6) });
    show();
    parts[app.state.part].run(app);
  });
  get("draw-again").addEventListener("click", () => parts[app.state.part].run(app));
  get("stop").addEventListener("click", () => {
    wish = null;
    app.engine.stop();
  });
  get("save").addEventListener("click", save);
  get("link").addEventListener("click", copy);
  document.querySelector("main").addEventListener("input", outputs);
  addEventListener("hashchange", () => {
    const name = location.hash.slice(1);
    if (name === "main") return app.set({}); // of the link that skips to the pictures
    if (parts[name]) return open(name);
    read();
    parts[app.state.part].run(app);
  });
}

async function save() {
  const rows = parts[app.state.part].rows();
  if (!rows.flat().some(Boolean)) return say("There is no picture to save yet.");
  const url = URL.createObjectURL(await png(rows, app.model.shape));
  Object.assign(document.createElement("a"), { href: url, download: `${app.model.name}-${app.state.part}-${app.state.seed}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  say("Saved.");
}

async function copy() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied: it brings back what you see.");
  } catch {
    say("The link is in the address bar of the browser: it brings back what you see.");
  }
}

/** The state from the address. */
function read() {
  const classes = [...Array.from({ length: app.model.num_classes ?? 0 }, (_, n) => String(n)), ""];
  const solvers = [...new Set(app.tables.map((each) => each.solver))].filter((name) => name !== "encode");
  app.state = parse(location.hash, { parts: Object.keys(parts), solvers, classes });
  show();
  for (const part of Object.values(parts)) part.read?.(app);
}

async function json(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} could not be fetched: the server says ${answer.status}.`);
  try {
    return await answer.json();
  } catch {
    throw new Error(`${name} is damaged: it holds no JSON. Export the network again.`);
  }
}

async function main() {
  if (location.protocol === "file:") throw new Error("Browsers let a page compute only where a server serves it: see `--serve`.");
  const [model, tables] = await Promise.all([json("model.json"), json("tables.json")]);
  if (model.format !== 1) throw new Error(`model.json is of format ${model.format}; this page reads format 1.`);
  Object.assign(app, { model, tables: tables.tables, size: model.shape.reduce((a, b) => a * b) });
  get("made").textContent = `The network: ${model.name}, ${model.shape.slice(0, 2).join(" × ")} points. Made by ${model.made_by}, computed by ONNX Runtime Web.`;
  read();
  for (const part of Object.values(parts)) part.mount(app);
  listen();
  say("Fetching the network…");
  app.device = await app.engine.load(model, progress);
  document.body.dataset.device = app.device;
  await parts[app.state.part].run(app);
}

main().catch((error) => refuse(error.message));
