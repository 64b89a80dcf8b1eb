// What the page shows, as one object, and as the end of its address: a link brings back the same state.

const LARGEST_SEED = 2 ** 31 - 1;

export const DEFAULTS = {
  part: "draw",
  solver: "ddim",
  steps: null, // null: the part's own
  eta: 0,
  seed: 7,
  label: null, // a class, "" where the network is not told one; null: the part's own
  guidance: 1,
  across: 0.5, // the place in the square
  down: 0.5,
  weight: 0.5, // the place between the two own pictures
  first: "", // the own pictures, as text
  second: "",
  edits: "", // of the table: "row.column.k:weight,..."
};

/** The state in the end of an address, "#part&name=value&..."; what is unknown or makes no sense is as in DEFAULTS. */
export function parse(hash, { parts, solvers, classes }) {
  const state = { ...DEFAULTS };
  const [part, ...rest] = hash.replace(/^#/, "").split("&");
  if (parts.includes(part)) state.part = part;
  const given = new URLSearchParams(rest.join("&"));
  const number = (name, low, high) => {
    const value = Number(given.get(name));
    if (given.has(name) && value >= low && value <= high) state[name] = value;
  };
  number("steps", 1, 1000);
  number("eta", 0, 1);
  number("seed", 0, LARGEST_SEED);
  state.seed = Math.floor(state.seed);
  number("guidance", 0, 10);
  for (const name of ["across", "down", "weight"]) number(name, 0, 1);
  if (solvers.includes(given.get("solver"))) state.solver = given.get("solver");
  if (classes.includes(given.get("label"))) state.label = given.get("label");
  for (const name of ["first", "second", "edits"]) state[name] = given.get(name) ?? "";
  return state;
}

/** The end of the address of a state: what differs from DEFAULTS. */
export function format(state) {
  const changed = Object.entries(state).filter(([name, value]) => name !== "part" && value !== DEFAULTS[name]);
  return [`#${state.part}`, ...changed.map(([name, value]) => `${name}=${encodeURIComponent(value)}`)].join("&");
}
