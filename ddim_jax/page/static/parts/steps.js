// The same latents in fewer steps, at eta = 0 and at eta = 1.

import { element, nth, paint } from "../pictures.js";

const COUNT = 3;
const LARGEST = 50;
const get = (id) => document.getElementById(id);
let drawn = {}; // "eta S" -> pictures

export default {
  fields: ["label", "guidance", "seed"],
  steps: LARGEST,
  results: {},

  mount() {},

  run(app) {
    const numbers = app.stepsOf("ddim").filter((steps) => steps <= LARGEST);
    const start = app.latents(Array.from({ length: COUNT }, (_, n) => n));
    const all = [0, 1].flatMap((eta) => [...numbers].reverse().map((steps) => [eta, steps])); // the finest first: others are compared
    drawn = {};
    this.results = drawn;
    const fill = () => [0, 1].forEach((eta) => grid(app, eta, numbers, start.x));
    fill();
    return app.work("Drawing the same latents several times…", 2 * COUNT * numbers.reduce((a, b) => a + b), async (sample) => {
      for (const [eta, steps] of all) {
        drawn[`${eta} ${steps}`] = await sample(app.table("ddim", steps, eta), start);
        fill();
      }
    });
  },

  rows() {
    const keys = Object.keys(drawn).sort((a, b) => a.split(" ")[0] - b.split(" ")[0] || a.split(" ")[1] - b.split(" ")[1]);
    const size = keys.length ? drawn[keys[0]].length / COUNT : 0;
    return Array.from({ length: keys.length ? COUNT : 0 }, (_, n) => keys.map((key) => nth(drawn[key], n, size)));
  },
};

function grid(app, eta, numbers, x) {
  const place = get(`steps-${eta}`);
  place.style.gridTemplateColumns = `repeat(${numbers.length + 1}, minmax(0, 1fr))`;
  const cells = ["latent", ...numbers.map((steps) => `S = ${steps}`)].map((text) => {
    return Object.assign(document.createElement("span"), { textContent: text });
  });
  const finest = drawn[`${eta} ${numbers.at(-1)}`];
  for (let n = 0; n < COUNT; n++) {
    cells.push(element(nth(x, n, app.size), app.model.shape, `latent ${n + 1}`, 2.5));
    for (const steps of numbers) {
      const data = drawn[`${eta} ${steps}`];
      const cell = document.createElement("div");
      const far = data && steps !== numbers.at(-1) ? distance(nth(data, n, app.size), nth(finest, n, app.size)).toFixed(3) : "";
      cell.append(element(null, app.model.shape, `latent ${n + 1} in ${steps} steps, eta ${eta}`), Object.assign(document.createElement("small"), { textContent: far }));
      if (data) paint(cell.firstChild, nth(data, n, app.size), app.model.shape);
      cells.push(cell);
    }
  }
  place.replaceChildren(...cells);
}

/** The mean difference of a point, of pictures from 0 to 1. */
function distance(a, b) {
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length / 2;
}
