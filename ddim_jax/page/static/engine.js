// The worker as the page sees it: promises of results.

/** What a run ends with that was stopped, by hand or because a newer one was asked for. */
export class Stopped extends Error {}

export class Engine {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #runs = new Map(); // by number: {resolve, reject, onRow}
  #last = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => this.#loading?.reject(new Error(event.message ?? "The page's worker does not start here."));
  }

  #loading;

  /** Fetches and starts the network; gives what it is computed by. onProgress: fraction in [0, 1], or null if not known. */
  load(model, onProgress) {
    return new Promise((resolve, reject) => {
      this.#loading = { resolve, reject, onProgress };
      this.#worker.postMessage({ kind: "load", model });
    });
  }

  /** Takes {x, keys, labels} through a table; calls onRow({row, x, x0}) after each row; gives the end. */
  run(job, onRow = () => {}) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#runs.set(id, { resolve, reject, onRow });
      this.#worker.postMessage({ kind: "run", id, ...job });
    });
  }

  /** Stops all that runs. */
  stop() {
    for (const [id, { reject }] of this.#runs) {
      this.#worker.postMessage({ kind: "stop", id });
      reject(new Stopped());
    }
    this.#runs.clear();
  }

  #hear({ kind, id, message, ...rest }) {
    if (kind === "fetched") this.#loading.onProgress(rest.fraction);
    else if (kind === "loaded") this.#loading.resolve(rest.device);
    else if (kind === "failed" && id === undefined) this.#loading.reject(new Error(message));
    const run = this.#runs.get(id);
    if (!run) return; // it was stopped
    if (kind === "row") run.onRow(rest);
    else if (kind === "done") run.resolve(rest.x);
    else run.reject(kind === "stopped" ? new Stopped() : new Error(message));
    if (kind !== "row") this.#runs.delete(id);
  }
}
