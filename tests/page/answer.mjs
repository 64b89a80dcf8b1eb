// Answers questions about the page's sampler.js, which come as JSON on standard input: {name: [function, arguments]}.
import { readFileSync } from "node:fs";

// As text: beside it there is no package.json to tell Node that a .js file is a module.
const sampler = await import(`data:text/javascript,${encodeURIComponent(readFileSync(process.argv[2], "utf8"))}`);

/** The toy network of test_sampler.py: nearly the eps of Gaussian data of variance 1/4. */
const network = (alphaBar, label) => async (x, step) => {
  const a = alphaBar[step + 1];
  return x.map((value) => (Math.sqrt(1 - a) * value) / (1 - 0.75 * a) + 0.1 * Math.sin(3 * value + label));
};

async function sample({ table, x, keys, alphaBar, prediction, clip, labels, weight }) {
  const [told, without] = labels.map((label) => sampler.predictor(network(alphaBar, label), alphaBar, prediction));
  let predict = weight === 1 ? told : sampler.guided(told, without, weight);
  if (clip) predict = sampler.clipped(predict, alphaBar);
  const size = x.length / keys.length;
  const x0 = [];
  const end = await sampler.sample(predict, table, Float32Array.from(x), (row) => sampler.noiseOfRow(keys, row, size), (step) => {
    x0.push(Array.from(step.x0));
  });
  return { x: end, x0 };
}

const functions = { ...sampler, sample };
const plain = (value) => JSON.parse(JSON.stringify(value, (_, v) => (ArrayBuffer.isView(v) ? Array.from(v) : v)));
const answers = {};
for (const [name, [asked, given]] of Object.entries(JSON.parse(readFileSync(0)))) {
  answers[name] = plain(await functions[asked](...given));
}
console.log(JSON.stringify(answers));
