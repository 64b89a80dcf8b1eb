// The network and the loop, away from the page, so that it never freezes. Messages are those of engine.js.

import { clipped, guided, noiseOfRow, predictor, sample } from "./sampler.js";

const THREADS = 4; // at most; more gain little on pictures this small

let ort, session, model, device;
let turn = Promise.resolve(); // runs wait for each other
const stopped = new Set();

const answers = {
  async load({ model: given }) {
    model = given;
    const bytes = await fetchNetwork();
    await start(bytes);
    postMessage({ kind: "loaded", device });
  },
  run(job) {
    turn = turn.then(() => run(job)).catch((error) => postMessage({ kind: "failed", id: job.id, message: error.message }));
  },
  stop({ id }) {
    stopped.add(id);
  },
};

onmessage = ({ data }) => {
  Promise.resolve(answers[data.kind](data)).catch((error) => postMessage({ kind: "failed", message: error.message }));
};

/** The network's file, checked against the hash that it was exported with (where the browser offers one). */
async function fetchNetwork() {
  const answer = await fetch(model.network);
  if (!answer.ok) throw new Error(`The network ${model.network} could not be fetched: the server says ${answer.status}.`);
  const total = Number(answer.headers.get("content-length"));
  const chunks = [];
  let received = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    received += value.length;
    postMessage({ kind: "fetched", fraction: total ? Math.min(1, received / total) : null });
  }
  const bytes = new Uint8Array(await new Blob(chunks).arrayBuffer());
  if (self.crypto?.subtle) {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const found = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== model.sha256) throw new Error(`The network ${model.network} is damaged: it is not the file that was exported.`);
  }
  return bytes;
}

/** Starts the network by WebGPU where there is one that computes, else by Wasm. */
async function start(bytes) {
  if (await navigator.gpu?.requestAdapter().catch(() => null)) {
    try {
      await startBy("webgpu", bytes);
      return;
    } catch (error) {
      console.info(`WebGPU is there but does not run this network (${error.message}); Wasm does.`);
    }
  }
  await startBy("wasm", bytes);
}

async function startBy(provider, bytes) {
  ort = await import(`./onnxruntime/ort.${provider}.min.mjs`);
  const threads = self.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
  // Of its messages errors alone (3): it warns of each network that sums of shapes are left to the processor, as they should be.
  session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 3 });
  const [height, width, channels] = model.shape;
  const first = await network([model.null_label ?? 0])(new Float32Array(height * width * channels), 0); // and compiles
  if (!first.every(Number.isFinite)) throw new Error("its numbers are not finite");
  device = provider === "webgpu" ? "WebGPU" : `Wasm, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

/** (x, step) -> what the network says, for pictures of these labels. */
function network(labels) {
  const [height, width, channels] = model.shape;
  return async (x, step) => {
    const count = labels.length;
    const given = {
      x: new ort.Tensor("float32", x, [count, height, width, channels]),
      step: new ort.Tensor("int32", new Int32Array(count).fill(step), [count]),
    };
    if (model.num_classes) given.label = new ort.Tensor("int32", Int32Array.from(labels), [count]);
    const { prediction } = await session.run(given);
    const said = prediction.data;
    const depth = prediction.dims[3];
    if (depth === channels) return Float32Array.from(said);
    // With a learned variance the network says twice as much; the first half is the prediction.
    return Float32Array.from(x, (_, i) => said[Math.floor(i / channels) * depth + (i % channels)]);
  };
}

async function run({ id, table, x, keys, labels, weight }) {
  const size = x.length / labels.length;
  let predict = predictor(network(labels), model.alpha_bar, model.prediction);
  if (weight !== 1) {
    const untold = network(labels.map(() => model.null_label));
    predict = guided(predict, predictor(untold, model.alpha_bar, model.prediction), weight);
  }
  if (model.clip_x0) predict = clipped(predict, model.alpha_bar);
  const goesOn = async ({ row, x, x0 }) => {
    postMessage({ kind: "row", id, row, x, x0 });
    await new Promise((resume) => setTimeout(resume)); // a wish to stop is read here
    return !stopped.has(id);
  };
  const end = stopped.has(id) ? null : await sample(predict, table, x, (row) => noiseOfRow(keys, row, size), goesOn);
  stopped.delete(id);
  postMessage(end ? { kind: "done", id, x: end } : { kind: "stopped", id });
}
