// Walks between four latents: a square, and the line along its top.

import { element, nth, paint } from "../pictures.js";
import { inSquare, slerp } from "../sampler.js";

const SIDE = 5; // pictures of the square
const LINE = 7;
const get = (id) => document.getElementById(id);
let corners, key;
let cells = []; // pictures of the square, row by row
let line = null;

export default {
  fields: ["solver", "steps", "label", "guidance", "seed"],
  steps: 10,
  still: true,
  untold: true, // so that the walk leads from one class to another
  results: {},

  mount(app) {
    for (const name of ["across", "down"]) {
      get(`walk-${name}`).addEventListener("input", ({ target }) => this.move(app, { [name]: Number(target.value) }));
      get(`walk-${name}`).addEventListener("change", () => this.run(app));
    }
    const square = get("walk-square");
    const follow = (event) => {
      const { left, top, width, height } = square.getBoundingClientRect();
      const inside = (value) => Math.round(100 * Math.min(1, Math.max(0, value))) / 100;
      this.move(app, { across: inside((event.clientX - left) / width), down: inside((event.clientY - top) / height) });
    };
    square.addEventListener("pointerdown", (event) => {
      square.setPointerCapture(event.pointerId);
      follow(event);
    });
    square.addEventListener("pointermove", (event) => square.hasPointerCapture(event.pointerId) && follow(event));
    square.addEventListener("pointerup", () => this.run(app));
  },

  read(app) {
    for (const name of ["across", "down"]) get(`walk-${name}`).value = app.state[name];
    ring(app);
  },

  /** The picture at the ring, in the fewest steps that there are. */
  move(app, place) {
    app.set(place);
    this.read(app);
    prepare(app);
    const steps = app.stepsOf(app.state.solver)[0];
    app.live(steps, (sample) => here(app, sample, steps));
  },

  run(app) {
    prepare(app);
    this.read(app);
    this.results = { corners };
    const left = cells.filter((each) => !each).length + (line ? 0 : LINE);
    return app.work("Drawing the picture at the ring, then what lies around it…", (left + 1) * app.steps, async (sample) => {
      this.results.x = await here(app, sample, app.steps);
      if (!line) {
        const latents = Array.from({ length: LINE }, (_, n) => slerp(corners[0], corners[1], n / (LINE - 1)));
        line = await several(app, sample, latents);
        lines(app);
      }
      for (let down = 0; down < SIDE; down++) {
        const missing = cells.slice(down * SIDE, (down + 1) * SIDE).some((each) => !each);
        if (!missing) continue;
        const latents = Array.from({ length: SIDE }, (_, n) => inSquare(corners, n / (SIDE - 1), down / (SIDE - 1)));
        const drawn = await several(app, sample, latents);
        latents.forEach((_, n) => (cells[down * SIDE + n] = nth(drawn, n, app.size)));
        grid(app);
      }
      Object.assign(this.results, { line, cells });
    });
  },

  rows: () => Array.from({ length: SIDE }, (_, down) => cells.slice(down * SIDE, (down + 1) * SIDE)),
};

/** The four latents of the settings; what was drawn of others is forgotten. */
function prepare(app) {
  const { seed, solver, guidance } = app.state;
  const now = JSON.stringify([seed, solver, app.label, guidance, app.steps]);
  if (key === now) return;
  key = now;
  const { x } = app.latents([0, 1, 2, 3]);
  corners = [0, 1, 2, 3].map((n) => nth(x, n, app.size));
  cells = Array(SIDE * SIDE).fill(null);
  line = null;
  grid(app);
  lines(app);
}

async function here(app, sample, steps) {
  const x = inSquare(corners, app.state.across, app.state.down);
  const end = await sample(app.table(app.state.solver, steps), { x });
  paint(get("walk-x"), end, app.model.shape);
  get("walk-says").textContent = `the picture at the ring, in ${steps} steps`;
  return end;
}

async function several(app, sample, latents) {
  const x = new Float32Array(latents.length * app.size);
  latents.forEach((latent, n) => x.set(latent, n * app.size));
  return sample(app.table(app.state.solver, app.steps), { x });
}

function grid(app) {
  const name = (n) => `row ${Math.floor(n / SIDE) + 1}, column ${(n % SIDE) + 1} of the square`;
  get("walk-grid").replaceChildren(...cells.map((data, n) => element(data, app.model.shape, name(n))));
}

function lines(app) {
  const pictures = Array.from({ length: LINE }, (_, n) => line && nth(line, n, app.size));
  get("walk-line").replaceChildren(...pictures.map((data, n) => element(data, app.model.shape, `picture ${n + 1} of the line`)));
}

function ring(app) {
  Object.assign(get("walk-ring").style, { left: `${100 * app.state.across}%`, top: `${100 * app.state.down}%` });
  for (const name of ["across", "down"]) {
    get(`walk-${name}`).parentElement.querySelector(".value").textContent = app.state[name].toFixed(2);
  }
}
