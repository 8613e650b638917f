// What an answer took: tokens, time to the first, tokens a second, an estimate of its cost.

import { count, duration, money } from "./numbers.js";

// A machine's hour is what a small answer really costs here; the prices per token are for comparing with a vendor's.
export const PRICES = { hour: 0.08, input: 0, output: 0 };

/** Starts the clock of one answer. */
export function meter() {
  const started = performance.now();
  let first = 0;
  let pieces = 0;
  return {
    /** A piece of the answer has come. */
    tick() {
      first ||= performance.now();
      pieces += 1;
    },
    /** The figures so far; `usage` is the server's count where it has come. */
    read(usage) {
      const now = performance.now();
      const tokens = usage?.completion_tokens ?? pieces;
      const seconds = (now - started) / 1000;
      const after = first ? (now - first) / 1000 : 0;
      return { tokens, prompt: usage?.prompt_tokens ?? null, exact: Boolean(usage), first: first ? (first - started) / 1000 : null, seconds, speed: tokens > 1 && after > 0 ? (tokens - 1) / after : null };
    },
  };
}

/** The cost of an answer at `prices`, in dollars. */
export function cost(figures, prices) {
  return (figures.seconds / 3600) * prices.hour + ((figures.prompt || 0) * prices.input + figures.tokens * prices.output) / 1e6;
}

/** The figures in words, as [text, what it means] pairs. */
export function told(figures, prices) {
  const parts = [[`${figures.exact ? "" : "≈ "}${count(figures.tokens)} tokens`, figures.prompt ? `answer ${count(figures.tokens)} tokens, prompt ${count(figures.prompt)}` : "tokens of the answer"]];
  if (figures.first !== null) parts.push([`first after ${duration(figures.first)}`, "time to the first token"]);
  if (figures.speed) parts.push([`${figures.speed.toFixed(figures.speed < 10 ? 1 : 0)} tokens/s`, "speed after the first token"]);
  parts.push([`≈ ${money(cost(figures, prices))}`, "estimated cost; the prices stand in the settings"]);
  return parts;
}
