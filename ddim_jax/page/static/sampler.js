// The mathematics of the page, as ddim_jax has it: random numbers, predictions, the loop over the rows of a table, and walks
// between latents. Pure functions without a browser: Node runs them too, and tests compare them with JAX.
//
// A picture is a Float32Array of height * width * channels numbers; several lie one after the other in one array.

// --- Random numbers: JAX's Threefry-2x32 (Salmon et al., 2011), so that a seed gives the same latent here and there ---------

const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];
const SAMPLING = 0x39daf8c6; // crc32("sampling"): the stream of ddim_jax.common.seeds that latents come from

/** The block cipher: a key and a counter of two 32-bit words each -> two random words. */
export function threefry([key0, key1], [counter0, counter1]) {
  const keys = [key0, key1, key0 ^ key1 ^ 0x1bd11bda];
  let a = (counter0 + key0) | 0;
  let b = (counter1 + key1) | 0;
  for (let group = 0; group < 5; group++) {
    for (const turn of ROTATIONS[group % 2]) {
      a = (a + b) | 0;
      b = ((b << turn) | (b >>> (32 - turn))) ^ a;
    }
    a = (a + keys[(group + 1) % 3]) | 0;
    b = (b + keys[(group + 2) % 3] + group + 1) | 0;
  }
  return [a >>> 0, b >>> 0];
}

/** jax.random.key(seed), for a seed from 0 to 2**31 - 1. */
export const key = (seed) => [0, seed];

/** jax.random.fold_in(key, number); the n-th of jax.random.split(key) is fold(key, n) too. */
export const fold = (key, number) => threefry(key, [0, number]);

/** jax.random.normal(key, [count]): float32, standard normal. */
export function normal(key, count) {
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const [high, low] = threefry(key, [0, i]);
    const uniform = ((high ^ low) >>> 9) / 2 ** 22 - 1 + 2 ** -24; // in (-1, 1), in steps of 2**-22
    numbers[i] = Math.SQRT2 * Math.fround(inverseErf(Math.fround(uniform)));
  }
  return numbers;
}

// Giles, "Approximating the erfinv function" (2010), in single precision: the two polynomials that XLA evaluates.
const CENTRE = [
  2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727,
  1.50140941,
];
const TAIL = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406,
  2.83297682,
];

function inverseErf(x) {
  const w = -Math.log1p(-Math.fround(x * x)); // the square is rounded as XLA rounds it: near 1 that is seen in the result
  const [at, coefficients] = w < 5 ? [w - 2.5, CENTRE] : [Math.sqrt(w) - 3, TAIL];
  return x * coefficients.reduce((sum, coefficient) => sum * at + coefficient);
}

/** Latents x_T of the pictures numbered `indices` of a seed, and the keys of the noise that is drawn on their way. */
export function latents(seed, indices, size) {
  const x = new Float32Array(indices.length * size);
  const keys = indices.map((index, place) => {
    const own = fold(fold(key(seed), SAMPLING), index);
    x.set(normal(fold(own, 0), size), place * size);
    return fold(own, 1);
  });
  return { x, keys };
}

/** The noise of one row of a table, for each picture from its own key. */
export function noiseOfRow(keys, row, size) {
  const noise = new Float32Array(keys.length * size);
  keys.forEach((own, place) => noise.set(normal(fold(own, row), size), place * size));
  return noise;
}

// --- Predictions: what a network says of x_t, as both halves of x_t = signal * x0 + noise * eps ----------------------------

const scales = (alphaBar, t) => ({ signal: Math.sqrt(alphaBar[t]), noise: Math.sqrt(1 - alphaBar[t]) });
const map = (x, each) => Float32Array.from(x, (_, i) => each(i));

/**
 * (x, t) -> {x0, eps}, from an asynchronous network (x, step) that predicts "eps", "x0" or "v".
 * Networks number steps from 0; at t = 0, where nothing was trained, they are asked as at t = 1.
 */
export function predictor(network, alphaBar, prediction) {
  return async (x, t) => {
    const said = await network(x, Math.max(t, 1) - 1);
    if (prediction === "eps") {
      const { signal, noise } = scales(alphaBar, t);
      return { x0: map(x, (i) => (x[i] - noise * said[i]) / signal), eps: said };
    }
    const { signal, noise } = scales(alphaBar, Math.max(t, 1));
    const x0 = prediction === "x0" ? said : map(x, (i) => signal * x[i] - noise * said[i]);
    const eps = map(x, (i) => (prediction === "x0" ? (x[i] - signal * said[i]) / noise : noise * x[i] + signal * said[i]));
    return { x0: t === 0 ? x.slice() : x0, eps };
  };
}

/** Classifier-free guidance: without + weight * (told - without). */
export function guided(told, without, weight) {
  return async (x, t) => {
    const [towards, away] = [await told(x, t), await without(x, t)];
    const mix = (a, b) => map(a, (i) => b[i] + weight * (a[i] - b[i]));
    return { x0: mix(towards.x0, away.x0), eps: mix(towards.eps, away.eps) };
  };
}

/** The predictor with x0 kept in [-1, 1], and eps derived again, so that both still make up x_t. */
export function clipped(predict, alphaBar) {
  return async (x, t) => {
    const raw = await predict(x, t);
    const { signal, noise } = scales(alphaBar, t);
    const x0 = raw.x0.map((value) => Math.min(1, Math.max(-1, value)));
    const eps = noise === 0 ? raw.eps : map(x, (i) => raw.eps[i] + (signal * (raw.x0[i] - x0[i])) / noise);
    return { x0, eps };
  };
}

// --- The sampler: one loop for every table ----------------------------------------------------------------------------------

/**
 * Takes x through the rows of a table: x_s = sum_k x0[k] x0_hat[k] + sum_k eps[k] eps_hat[k] + noise z, newest prediction first.
 *
 * table:   {t: [S], s: [S], x0: [S][K], eps: [S][K'], noise: [S]}.
 * noise:   row -> numbers z, asked for where the row's weight is not 0.
 * onRow:   called after every row with {row, x, x0}; may be asynchronous. If it gives false, the loop stops and null is given.
 */
export async function sample(predict, table, x, noise, onRow = () => true) {
  const past = { x0: [], eps: [] };
  for (let row = 0; row < table.t.length; row++) {
    const now = await predict(x, table.t[row]);
    const terms = [];
    for (const half of ["x0", "eps"]) {
      past[half] = [now[half], ...past[half]].slice(0, table[half][row].length);
      past[half].forEach((values, k) => terms.push([Math.fround(table[half][row][k]), values]));
    }
    if (table.noise[row] !== 0) terms.push([Math.fround(table.noise[row]), noise(row)]);
    x = map(x, (i) => terms.reduce((sum, [weight, values]) => sum + weight * values[i], 0));
    if ((await onRow({ row, x, x0: now.x0 })) === false) return null;
  }
  return x;
}

// --- Walks between latents --------------------------------------------------------------------------------------------------

/** Spherical interpolation: a at weight 0, b at 1, along an arc; a line where they are parallel, opposite or 0. */
export function slerp(a, b, weight) {
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const square = dot(a, a) * dot(b, b);
  const cosine = dot(a, b) / Math.sqrt(square || 1);
  const line = square === 0 || Math.abs(cosine) > 1 - 2 ** -21;
  const angle = Math.acos(line ? 0 : cosine);
  const [wa, wb] = line ? [1 - weight, weight] : [(1 - weight) * angle, weight * angle].map((part) => Math.sin(part) / Math.sin(angle));
  return map(a, (i) => wa * a[i] + wb * b[i]);
}

/** The latent at (across, down), both in [0, 1], of a square with latents [top left, top right, bottom left, bottom right]. */
export function inSquare([topLeft, topRight, bottomLeft, bottomRight], across, down) {
  return slerp(slerp(topLeft, bottomLeft, down), slerp(topRight, bottomRight, down), across);
}
