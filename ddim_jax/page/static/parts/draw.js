// From noise to a picture: x_t and the predicted x_0 on the way.

import { element, paint, reach } from "../pictures.js";

const FILM = 12;
const get = (id) => document.getElementById(id);
let shown; // of the last run: {xs, x0s, t}

export default {
  fields: ["solver", "steps", "eta", "label", "guidance", "seed"],
  steps: 20,
  results: {},

  mount(app) {
    get("draw-at").addEventListener("input", ({ target }) => look(app, Number(target.value)));
  },

  run(app) {
    const table = app.chosen();
    const start = app.latents([0]);
    shown = { xs: [start.x], x0s: [], table };
    this.results = {};
    get("draw-at").max = table.t.length;
    film(app);
    look(app, 0);
    return app.work("Drawing…", table.t.length, async (sample) => {
      const onRow = ({ row, x, x0 }) => {
        shown.xs.push(x);
        shown.x0s.push(x0);
        film(app);
        look(app, row + 1);
      };
      const end = await sample(table, start, { onRow });
      this.results = { latent: start.x, x: end, xs: shown.xs, x0s: shown.x0s };
    });
  },

  rows() {
    const { xs, x0s } = shown;
    return x0s.length ? [[xs.at(-1)]] : [];
  },
};

function look(app, at) {
  const { xs, x0s, table } = shown;
  const t = at === 0 ? table.t[0] : table.s[at - 1];
  get("draw-at").value = at;
  get("draw-at-says").textContent = `${at} of ${table.t.length}`;
  get("draw-x-says").innerHTML = `x<sub>t</sub> at t = ${t}`;
  if (xs[at]) paint(get("draw-x"), xs[at], app.model.shape, reach(app.model, t));
  const x0 = x0s[Math.max(0, at - 1)];
  if (x0) paint(get("draw-x0"), x0, app.model.shape);
  else get("draw-x0").width = app.model.shape[1];
}

function film(app) {
  const { xs, x0s, table } = shown;
  const count = Math.min(FILM, table.t.length);
  const rows = Array.from({ length: count }, (_, n) => Math.round(((n + 1) * table.t.length) / count) - 1);
  const label = (row) => `after step ${row + 1}`;
  get("draw-film").replaceChildren(
    ...rows.map((row) => {
      const column = document.createElement("div");
      column.append(
        element(xs[row + 1], app.model.shape, `x ${label(row)}`, reach(app.model, table.s[row])),
        element(x0s[row], app.model.shape, `predicted picture ${label(row)}`),
      );
      return column;
    }),
  );
}
