// The same prompt to several models, all streaming at once.

import { h, icon, iconButton } from "./dom.js";
import { modelChoice, outputPlace, runButton } from "./running.js";
import { asRequest, remember, remembered } from "./sampling.js";

const MOST = 6;

/** The mode's element; `sampling()` gives the dials as they stand. */
export function compare(cards, sampling) {
  const kept = remembered("compare", { models: cards.slice(0, 2).map((card) => card.id), prompt: "", plain: false });
  const prompt = h("textarea", { id: "compare-prompt", rows: 3, value: kept.prompt, placeholder: "What does json.dumps do?" });
  const plain = h("input", { type: "checkbox", checked: kept.plain });
  const grid = h("div.models");
  const columns = [];
  const store = () => remember("compare", { models: columns.map((column) => column.choice.value), prompt: prompt.value, plain: plain.checked });

  function addColumn(model) {
    const choice = modelChoice(cards, model, `Model ${columns.length + 1}`);
    const place = outputPlace(`Answer of model ${columns.length + 1}`);
    const column = { choice, place };
    const close = iconButton("close", "Remove this model", () => {
      place.stop();
      columns.splice(columns.indexOf(column), 1);
      column.element.remove();
      arrange();
    });
    column.element = h("div.card.model", { role: "group", "aria-label": `Model ${columns.length + 1}` }, h("div.row", {}, choice, close), place.element);
    choice.addEventListener("change", store);
    columns.push(column);
    grid.insertBefore(column.element, more);
    arrange();
  }

  function arrange() {
    more.hidden = columns.length >= MOST;
    for (const column of columns) column.element.querySelector(".ghost").hidden = columns.length < 2;
    store();
  }

  const more = h("button.button.more", { type: "button", on: { click: () => addColumn((cards[columns.length] || cards[0]).id) } }, icon("plus"), "Another model");
  grid.append(more);
  for (const model of kept.models.filter((name) => cards.some((card) => card.id === name))) addColumn(model);
  if (!columns.length) addColumn(cards[0].id);

  const run = () => {
    store();
    return Promise.all(
      columns.map(({ choice, place }) => {
        const shared = { model: choice.value, ...asRequest(sampling()) };
        if (plain.checked) return place.run("/v1/completions", { ...shared, prompt: prompt.value }, { plain: true });
        return place.run("/v1/chat/completions", { ...shared, messages: [{ role: "user", content: prompt.value }] });
      }),
    );
  };
  const button = runButton("Run all", run, () => columns.forEach((column) => column.place.stop()), [prompt]);
  button.id = "run-all";
  return h(
    "div",
    {},
    h("p.about", {}, "The same prompt to several models, side by side and all at once."),
    h("div.field", {}, h("label", { for: "compare-prompt" }, "Prompt"), prompt),
    h("div.row", {}, button, h("label.switch", {}, plain, "continue it as plain text (for base models)")),
    grid,
  );
}
