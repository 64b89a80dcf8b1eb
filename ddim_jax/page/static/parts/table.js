// A sampler is a table: its rows, with weights that can be changed, and what that does.

import { element, paint, reach } from "../pictures.js";

const COLUMNS = ["x0", "eps", "noise"];
const get = (id) => document.getElementById(id);
let before = { key: null, end: null };

export default {
  fields: ["solver", "steps", "eta", "label", "guidance", "seed"],
  steps: 10,
  largest: 20,
  forget: { edits: "" }, // the weights of another solver are others
  results: {},

  mount(app) {
    get("table-rows").addEventListener("change", ({ target }) => {
      if (target.value === "" || !target.checkValidity()) return app.say("A weight is a number.");
      const edits = parse(app.state.edits);
      edits.set(target.name, Number(target.value));
      if (Number(target.value) === weight(app.chosen(), target.name)) edits.delete(target.name);
      change(this, app, edits);
    });
    document.querySelector("#part-table .buttons").addEventListener("click", ({ target }) => {
      const table = app.chosen();
      const last = table.t.length - 1;
      const edits = new Map();
      const factor = { less: 0.9, more: 1.03 }[target.dataset.change];
      if (!target.dataset.change) return;
      for (const name of names(table)) {
        const [row, column] = name.split(".");
        const now = weight(table, name);
        if (factor && column === "eps" && now !== 0) edits.set(name, round(factor * now));
        if (target.dataset.change === "noise" && column === "noise" && Number(row) < last) edits.set(name, 0.2);
      }
      change(this, app, edits);
    });
  },

  run(app) {
    const table = app.chosen();
    const edits = parse(app.state.edits);
    for (const name of edits.keys()) if (weight(table, name) === undefined) edits.delete(name);
    const changed = edited(table, edits);
    const start = app.latents([0]);
    rows(app, changed, edits);
    const { solver, eta, seed, guidance } = app.state;
    const key = JSON.stringify([solver, app.steps, eta, seed, app.label, guidance]);
    const S = table.t.length;
    return app.work("Drawing…", before.key === key ? S : 2 * S, async (sample) => {
      const onRow = ({ row, x, x0 }) => thumbs(app, row, x, x0);
      if (before.key !== key) {
        before = { key: null, end: null };
        const end = await sample(table, start, { onRow: edits.size ? undefined : onRow });
        before = { key, end };
        paint(get("table-before"), end, app.model.shape);
        if (!edits.size) return show(this, app, end, edits);
      }
      show(this, app, await sample(changed, start, { onRow }), edits);
    });
  },

  rows() {
    return this.results.before ? [[this.results.before, this.results.after]] : [];
  },
};

function change(part, app, edits) {
  app.set({ edits: Array.from(edits, ([name, value]) => `${name}:${value}`).join(",") });
  part.run(app);
}

function show(part, app, end, edits) {
  part.results = { before: before.end, after: end };
  paint(get("table-after"), end, app.model.shape);
  const far = end.reduce((sum, value, i) => sum + Math.abs(value - before.end[i]), 0) / app.size / 2;
  const what = edits.size === 1 ? "one weight" : `${edits.size} weights`;
  get("table-says").textContent = edits.size ? `with ${what} changed; a point differs by ${far.toFixed(3)}` : "with your weights (none is changed)";
}

/** Weights by name, "row.column.k", from the text in the link. */
function parse(text) {
  const pairs = text.split(",").map((each) => each.split(":"));
  return new Map(pairs.filter(([name, value]) => name && value && Number.isFinite(Number(value))).map(([name, value]) => [name, Number(value)]));
}

/** A weight of a table; undefined where there is none of that name. */
function weight(table, name) {
  const [row, column, k] = name.split(".");
  if (!COLUMNS.includes(column)) return undefined;
  return column === "noise" ? table.noise[row] : table[column][row]?.[k];
}

const names = (table) =>
  table.t.flatMap((_, row) => COLUMNS.flatMap((column) => (column === "noise" ? [`${row}.noise`] : table[column][row].map((_, k) => `${row}.${column}.${k}`))));

function edited(table, edits) {
  const changed = structuredClone(table);
  for (const [name, value] of edits) {
    const [row, column, k] = name.split(".");
    if (column === "noise") changed.noise[row] = value;
    else changed[column][row][k] = value;
  }
  return changed;
}

const round = (value) => Number(value.toPrecision(6));

/** Draws the table anew; the field that had the focus keeps it. */
function rows(app, table, edits) {
  const focused = document.activeElement?.name;
  const heads = ["step", "asked at t", "leads to s"];
  for (const column of ["x0", "eps"]) {
    const sign = column === "x0" ? "x₀" : "ε";
    table[column][0].forEach((_, k) => heads.push(k === 0 ? `${sign} weight` : `${sign} of ${k} before`));
  }
  heads.push("noise weight", "x", "x̂₀");
  const head = document.createElement("thead");
  head.append(document.createElement("tr"));
  for (const text of heads) head.firstChild.append(Object.assign(document.createElement("th"), { scope: "col", textContent: text }));
  const body = document.createElement("tbody");
  table.t.forEach((t, row) => {
    const line = document.createElement("tr");
    const cell = (content) => {
      const td = document.createElement("td");
      td.append(content);
      line.append(td);
      return td;
    };
    cell(String(row + 1));
    cell(String(t));
    cell(String(table.s[row]));
    names(table)
      .filter((name) => name.startsWith(`${row}.`))
      .forEach((name, n) => {
        const input = Object.assign(document.createElement("input"), { type: "number", step: "any", name, value: round(weight(table, name)) });
        input.setAttribute("aria-label", `${heads[3 + n]}, step ${row + 1}`);
        cell(input).classList.toggle("changed", edits.has(name));
      });
    cell(element(null, app.model.shape, `x after step ${row + 1}`));
    cell(element(null, app.model.shape, `predicted picture in step ${row + 1}`));
    body.append(line);
  });
  get("table-rows").replaceChildren(head, body);
  if (focused) document.querySelector(`#table-rows [name="${CSS.escape(focused)}"]`)?.focus();
}

function thumbs(app, row, x, x0) {
  const pictures = get("table-rows").tBodies[0].rows[row].querySelectorAll("canvas");
  paint(pictures[0], x, app.model.shape, reach(app.model, app.chosen().s[row]));
  paint(pictures[1], x0, app.model.shape);
}
