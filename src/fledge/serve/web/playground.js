// The playground: several models side by side, completion token by token, and zero, one and few examples of one task.

import { call } from "./api.js";
import { compare } from "./compare.js";
import { complete } from "./complete.js";
import { $, h } from "./dom.js";
import { fewShot } from "./fewshot.js";
import { remember, remembered, samplingForm } from "./sampling.js";
import { shell } from "./shell.js";

const MODES = [["compare", "Compare", compare], ["complete", "Complete", complete], ["fewshot", "Few-shot", fewShot]];

const settings = remembered("playground", { sampling: {} });

function modeBar(show) {
  const buttons = MODES.map(([name, label]) => h("button", { type: "button", id: `mode-${name}`, "aria-pressed": "false", on: { click: () => show(name) } }, label));
  return h("div.segments", { role: "group", "aria-label": "What to do" }, buttons);
}

async function begin() {
  shell([["Ctrl Enter", "run"], ["Esc", "stop"], ["← →", "walk through the tokens of a completion"], ["Enter", "alternatives of a token"]]);
  const page = $("page");
  const place = h("div", { id: "mode" });
  const aside = h("details.card.dials", {}, h("summary", {}, "Sampling"), samplingForm(settings.sampling, (sampling) => {
    settings.sampling = sampling;
    remember("playground", settings);
  }));
  let cards;
  try {
    cards = (await call("/v1/models")).data;
  } catch (error) {
    page.append(h("p.alert", { role: "alert" }, error.message));
    return;
  }
  const made = {};
  const show = (name) => {
    const [, , make] = MODES.find(([mode]) => mode === name) || MODES[0];
    made[name] ||= make(cards, () => settings.sampling);
    place.replaceChildren(made[name]);
    for (const [mode] of MODES) $(`mode-${mode}`).setAttribute("aria-pressed", String(mode === name));
    history.replaceState(null, "", `#${name}`);
  };
  page.append(h("div.row.heading", {}, modeBar(show)), place, aside);
  const wanted = () => MODES.find(([mode]) => mode === location.hash.slice(1))?.[0] || "compare";
  addEventListener("hashchange", () => show(wanted()));
  show(wanted());
}

begin();
