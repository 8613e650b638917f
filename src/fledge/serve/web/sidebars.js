// What stands beside the conversation: the list of conversations, and the settings.

import { field, h, icon, iconButton } from "./dom.js";
import { PRICES } from "./meter.js";
import { ago } from "./numbers.js";
import { remember, remembered, samplingForm } from "./sampling.js";

/** The children of the left side. `act`: open, start, remove, exportAll. */
export function historyList(conversations, current, act) {
  const entries = conversations.map((each) =>
    h(
      "li",
      {},
      h("button.entry", { type: "button", "aria-current": each.id === current ? "true" : null, on: { click: () => act.open(each.id) } }, h("span", {}, each.title || "untitled"), h("small", {}, ago(each.updated))),
      iconButton("bin", `Delete “${each.title || "untitled"}”`, () => act.remove(each.id)),
    ),
  );
  return [
    h("button.button.wide", { type: "button", id: "new", on: { click: act.start } }, icon("plus"), "New conversation"),
    entries.length ? h("ul.entries", {}, entries) : h("p.about", {}, h("small", {}, "Conversations are kept in this browser.")),
    h("button.button.wide", { type: "button", id: "export", on: { click: act.exportAll } }, icon("save"), "Export as JSONL"),
  ];
}

/** The children of the right side; `changed` gets what changed, `close` closes it on a narrow screen. */
export function settingsForm(conversation, settings, changed, close) {
  const system = h("textarea", { id: "system", rows: 4, value: conversation.system || "", placeholder: "You are a helpful assistant." });
  system.addEventListener("change", () => changed({ system: system.value }));
  const prices = remembered("prices", PRICES);
  const price = (name, label, step) => {
    const input = h("input", { type: "number", min: 0, step, value: prices[name], inputmode: "decimal" });
    input.addEventListener("change", () => {
      prices[name] = Number(input.value) || 0;
      remember("prices", prices);
    });
    return field(label, input);
  };
  return [
    h("div.row", {}, h("h2", {}, "Settings"), h("span.grow"), iconButton("close", "Close the settings", close)),
    field("System message", system, "what the assistant is told before the conversation begins"),
    samplingForm(conversation.sampling || {}, (sampling) => changed({ sampling })),
    h("fieldset", {}, h("legend", {}, "Cost estimate, in dollars"), price("hour", "One hour of this machine", 0.01), h("div.pair", {}, price("input", "Million tokens in", 0.01), price("output", "Million tokens out", 0.01))),
  ];
}
