// The dials of sampling, shared by the chat and the playground; what is left at its default is not sent.

import { field, h } from "./dom.js";

const DIALS = [
  // name, label, low, high, step, default, hint
  ["temperature", "Temperature", 0, 2, 0.05, 0.7, "0 always takes the likeliest token"],
  ["top_p", "Top-p", 0.05, 1, 0.05, 1, "draws from the likeliest tokens that make up this share"],
];
const NUMBERS = [
  ["top_k", "Top-k", 0, 1000, 1, 0],
  ["max_tokens", "Longest answer", 1, 100000, 1, ""],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, 0],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, 0],
];
const SENT_ALWAYS = new Set(["temperature"]);

export const DEFAULTS = Object.fromEntries([...DIALS, ...NUMBERS].map((dial) => [dial[0], dial[5]]));

/** The part of a request that says how to sample. */
export function asRequest(values) {
  const found = { ...DEFAULTS, ...values };
  const chosen = Object.keys(DEFAULTS).filter((name) => SENT_ALWAYS.has(name) || found[name] !== DEFAULTS[name]);
  const request = Object.fromEntries(chosen.map((name) => [name, found[name]]));
  const stop = (values.stop || "").split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  if (stop.length) request.stop = stop;
  if (values.seed !== undefined && values.seed !== "") request.seed = Number(values.seed);
  return request;
}

/** The form; `changed` gets the values after each change. */
export function samplingForm(values, changed) {
  const now = { ...values };
  const set = (name, value) => {
    now[name] = value;
    changed({ ...now });
  };
  const dials = DIALS.map(([name, label, min, max, step, standard, hint]) => {
    const output = h("output", {}, String(now[name] ?? standard));
    const input = h("input", { type: "range", min, max, step, value: now[name] ?? standard, name });
    input.addEventListener("input", () => {
      output.textContent = input.value;
      set(name, Number(input.value));
    });
    const made = field(label, input, hint);
    made.firstChild.append(" ", output);
    return made;
  });
  const numbers = NUMBERS.map(([name, label, min, max, step, standard]) => {
    const input = h("input", { type: "number", min, max, step, value: now[name] ?? standard, name, inputmode: "decimal", placeholder: standard === "" ? "automatic" : null });
    input.addEventListener("change", () => input.reportValidity() && set(name, input.value === "" ? standard : Number(input.value)));
    return field(label, input);
  });
  const seed = h("input", { type: "number", min: 0, step: 1, value: now.seed ?? "", name: "seed", placeholder: "random" });
  seed.addEventListener("change", () => set("seed", seed.value));
  const stop = h("textarea", { rows: 2, value: now.stop ?? "", name: "stop", placeholder: "one a line" });
  stop.addEventListener("change", () => set("stop", stop.value));
  return h("div.sampling", {}, dials, h("div.pair", {}, numbers), field("Seed", seed, "the same seed gives the same answer"), field("Stop at", stop));
}

/** Settings that stay in the browser under a name. */
export function remembered(name, standard) {
  try {
    return { ...standard, ...JSON.parse(localStorage.getItem(`fledge.${name}`) || "{}") };
  } catch {
    return { ...standard };
  }
}

export const remember = (name, value) => localStorage.setItem(`fledge.${name}`, JSON.stringify(value));
