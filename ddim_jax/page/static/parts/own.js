// Pictures of one's own: drawn or opened, encoded, reconstructed, and walked between.

import { element, fromText, nth, paint, read, readFile, toText } from "../pictures.js";
import { slerp } from "../sampler.js";

const PLACES = ["first", "second"];
const LINE = 7;
const ZOOM = 10; // points of the paper for one of the picture
const BRUSH = 1.7; // points of the picture
const get = (id) => document.getElementById(id);
const figure = (place) => document.querySelector(`.own[data-place="${place}"]`);
const paper = (place) => figure(place).querySelector("canvas");
const pictures = { first: null, second: null }; // Float32Array, or null where there is none
let encoded = null; // {key, latents, back}
let line = null;

export default {
  fields: ["steps", "seed"],
  steps: 20,
  encodes: true,
  results: {},

  mount(app) {
    for (const place of PLACES) {
      const [height, width] = app.model.shape;
      Object.assign(paper(place), { width: width * ZOOM, height: height * ZOOM });
      drawing(app, place, () => this.forget_(app));
      const file = figure(place).querySelector("input[type=file]");
      const open = async (chosen) => {
        if (!chosen) return;
        try {
          put(app, place, await readFile(chosen, app.model.shape));
          this.forget_(app);
          app.say("The picture is there: now encode it.");
        } catch (error) {
          app.say(error.message);
        }
      };
      file.addEventListener("change", async () => {
        await open(file.files[0]);
        file.value = "";
      });
      paper(place).addEventListener("dragover", (event) => event.preventDefault());
      paper(place).addEventListener("drop", (event) => {
        event.preventDefault();
        open(event.dataTransfer.files[0]);
      });
      figure(place).addEventListener("click", async ({ target }) => {
        const wish = target.dataset.do;
        if (wish === "open") file.click();
        if (wish === "clear") put(app, place, null);
        if (wish === "invert" && pictures[place]) put(app, place, pictures[place].map((value) => -value));
        if (wish === "sample") return take(app, place);
        if (wish === "clear" || wish === "invert") this.forget_(app);
      });
    }
    get("own-encode").addEventListener("click", () => this.run(app));
    get("own-weight").addEventListener("input", ({ target }) => {
      app.set({ weight: Number(target.value) });
      if (encoded?.latents.length === 2) app.live(app.steps, (sample) => between(app, sample));
    });
    this.read(app);
  },

  read(app) {
    get("own-weight").value = app.state.weight;
    for (const place of PLACES) put(app, place, app.state[place] ? fromText(app.state[place], app.size) : null);
  },

  /** What was made of the pictures before they changed. */
  forget_(app) {
    encoded = line = null;
    found(app);
    lines(app);
  },

  run(app) {
    const places = PLACES.filter((place) => pictures[place]);
    found(app);
    lines(app);
    if (!places.length) {
      app.say("Draw something, open a file, or take a drawn picture; then encode it.");
      return take(app, "second");
    }
    const count = places.length;
    const total = app.steps * (2 * count + (count === 2 ? LINE + 1 : 0));
    return app.work("Encoding and drawing again…", total, async (sample) => {
      const x0 = new Float32Array(count * app.size);
      places.forEach((place, n) => x0.set(pictures[place], n * app.size));
      const untold = { label: app.model.null_label };
      const up = await sample(app.table("encode", app.steps), { x: x0 }, untold);
      encoded = { places, x0, latents: places.map((_, n) => nth(up, n, app.size)), back: null };
      found(app);
      const back = await sample(app.table("ddim", app.steps), { x: up }, untold);
      encoded.back = back;
      found(app);
      this.results = { x0, latents: up, back };
      if (count < 2) return;
      this.results.x = await between(app, sample);
      const latents = Array.from({ length: LINE }, (_, n) => slerp(encoded.latents[0], encoded.latents[1], n / (LINE - 1)));
      const x = new Float32Array(LINE * app.size);
      latents.forEach((latent, n) => x.set(latent, n * app.size));
      line = await sample(app.table("ddim", app.steps), { x }, untold);
      this.results.line = line;
      lines(app);
    });
  },

  rows() {
    if (!encoded?.back) return [PLACES.map((place) => pictures[place])];
    const size = encoded.x0.length / encoded.places.length;
    const each = encoded.places.map((_, n) => [nth(encoded.x0, n, size), nth(encoded.back, n, size)]);
    return line ? [Array.from({ length: LINE }, (_, n) => nth(line, n, size)), ...each] : each;
  },
};

/** Shows a picture on its paper, and keeps it. */
function put(app, place, data) {
  keep(app, place, data);
  data = pictures[place];
  const pen = paper(place).getContext("2d");
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, paper(place).width, paper(place).height);
  if (data) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(element(data, app.model.shape, ""), 0, 0, paper(place).width, paper(place).height);
  }
}

/** Keeps a picture, and its place in the link, which holds bytes: it is rounded to them, so that the link brings back the same. */
function keep(app, place, data) {
  const text = data ? toText(data) : "";
  pictures[place] = data && fromText(text, app.size);
  app.set({ [place]: text });
}

/** Draws on a paper with a mouse, a pen or a finger. */
function drawing(app, place, changed) {
  const canvas = paper(place);
  const pen = canvas.getContext("2d");
  const at = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * canvas.width, ((event.clientY - top) / height) * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    Object.assign(pen, { lineWidth: BRUSH * ZOOM, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    pen.beginPath();
    pen.moveTo(...at(event));
    pen.lineTo(...at(event));
    pen.stroke();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    pen.lineTo(...at(event));
    pen.stroke();
  });
  canvas.addEventListener("pointerup", () => {
    keep(app, place, read(canvas, app.model.shape));
    changed();
  });
}

/** A picture that the network draws, from the seed. */
async function take(app, place) {
  const { x } = app.latents([PLACES.indexOf(place)]);
  const done = await app.work("Drawing one…", app.steps, async (sample) => {
    put(app, place, await sample(app.table("ddim", app.steps), { x }, { label: app.model.null_label }));
  });
  if (!done) return;
  encoded = line = null;
  found(app);
  lines(app);
  app.say("Now draw, open or take the other picture, and encode.");
}

async function between(app, sample) {
  const x = slerp(...encoded.latents, app.state.weight);
  const end = await sample(app.table("ddim", app.steps), { x }, { label: app.model.null_label });
  paint(get("own-x"), end, app.model.shape);
  return end;
}

function found(app) {
  const boxes = (encoded?.places ?? []).map((place, n) => {
    const box = document.createElement("div");
    const picture = nth(encoded.x0, n, app.size);
    const back = encoded.back && nth(encoded.back, n, app.size);
    const far = back && picture.reduce((sum, value, i) => sum + Math.abs(value - back[i]), 0) / app.size / 2;
    for (const [data, text, range] of [
      [picture, `${place} picture`, 1],
      [encoded.latents[n], "its latent", 2.5],
      [back, back ? `back again; a point is off by ${far.toFixed(3)}` : "back again", 1],
    ]) {
      const shown = document.createElement("figure");
      const caption = Object.assign(document.createElement("figcaption"), { textContent: text });
      shown.append(element(data, app.model.shape, text, range), caption);
      box.append(shown);
    }
    return box;
  });
  get("own-found").replaceChildren(...boxes);
}

function lines(app) {
  const shown = Array.from({ length: LINE }, (_, n) => line && nth(line, n, app.size));
  get("own-line").replaceChildren(...shown.map((data, n) => element(data, app.model.shape, `picture ${n + 1} of the walk`)));
  if (!line) get("own-x").width = app.model.shape[1];
}
