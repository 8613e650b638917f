// How far people agree: Krippendorff's alpha, pairs of people, and what each one did.

import { call } from "./api.js";
import { h } from "./dom.js";
import { count, duration } from "./numbers.js";

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(0)} %`);

function meter(share, reference = null) {
  const bar = h("div.meter", {}, h("i"), reference === null ? null : h("b", { title: `InstructGPT's labellers: ${percent(reference)}` }));
  bar.firstChild.style.setProperty("width", `${100 * (share ?? 0)}%`);
  if (reference !== null) bar.lastChild.style.setProperty("left", `${100 * reference}%`);
  return bar;
}

/** The view, fetched anew. */
export async function agreementView() {
  const found = await call("/app/label/agreement");
  if (!found.people.length) return h("div.empty", {}, h("h2", {}, "No rankings yet"), h("p", {}, "Agreement is measured where two people rank the same answers."));
  const facts = [["Krippendorff’s α", found.alpha === null ? "–" : found.alpha.toFixed(2)], ["Pairs judged alike", percent(found.agreement)], ["InstructGPT’s labellers", percent(found.instruct_gpt)], ["Pairs compared", count(found.pairs)]];
  const people = found.people.map((row) =>
    h("tr", {}, h("th", { scope: "row" }, row.person), h("td.number", {}, count(row.rankings)), h("td.number", {}, row.seconds === null ? "–" : duration(row.seconds)), h("td.number", {}, percent(row.agreement)), h("td.wide", {}, meter(row.agreement, found.instruct_gpt)), h("td.number", {}, row.weight === null ? "–" : row.weight.toFixed(2))),
  );
  const pairs = found.between.map((row) => h("tr", {}, h("th", { scope: "row" }, row.people.join(" and ")), h("td.number", {}, percent(row.agreement)), h("td.number", {}, count(row.pairs))));
  const head = (...names) => h("thead", {}, h("tr", {}, names.map((name, i) => h("th", { scope: "col", class: !i ? null : name.startsWith("Beside") ? "wide" : "number" }, name))));
  return h(
    "section",
    { "aria-label": "Agreement" },
    h("dl.facts", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("p.about", {}, "α is 1 for perfect agreement and 0 for what chance would give. The mark on each bar is where InstructGPT’s labellers stood."),
    h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "People" }, h("table.people", {}, head("Person", "Rankings", "Median time", "Agreement", "Beside InstructGPT’s", "Weight"), h("tbody", {}, people))),
    pairs.length ? h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "Pairs of people" }, h("table.people", {}, head("Between", "Agreement", "Pairs"), h("tbody", {}, pairs))) : null,
  );
}
