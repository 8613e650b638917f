// Tasks for labellers, from a file or from chats; for an admin.

import { call } from "./api.js";
import { field, h } from "./dom.js";
import { tell } from "./shell.js";

const rowsOf = (text) => (text.trimStart().startsWith("[") ? JSON.parse(text) : text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line)));

/** The card; `added` is called when there are new tasks. */
export function addTasks(added, failed) {
  const file = h("input", { type: "file", accept: ".jsonl,.json", id: "tasks-file" });
  const wanted = h("input", { type: "number", min: 1, max: 50, value: 1 });
  const overlap = h("input", { type: "number", min: 0, max: 100, value: 100 });
  const screening = h("input", { type: "checkbox", id: "screening" });
  const add = async (path, body, words) => {
    try {
      const found = await call(path, body);
      tell(words(found.added));
      await added();
    } catch (error) {
      failed(error);
    }
  };
  file.addEventListener("change", async () => {
    try {
      const rows = rowsOf(await file.files[0].text());
      await add("/app/label/tasks", { rows, wanted: Number(wanted.value), overlap: Number(overlap.value) / 100, screening: screening.checked }, (count) => `${count} task${count === 1 ? "" : "s"} added`);
    } catch (error) {
      failed(new Error(`That file is not JSON lines: ${error.message}.`));
    }
    file.value = "";
  });
  const chats = h("button.button", { type: "button", on: { click: () => add("/app/label/tasks/chats", {}, (count) => (count ? `${count} prompts of chats added to Demonstrate` : "No rated chat is left to add")) } }, "Add prompts of rated chats");
  const models = h("select", { "aria-label": "Reward model" });
  const choice = h("div.row", { id: "choice", hidden: true }, h("button.button", { type: "button", on: { click: choose } }, "Ask first what it is least sure of"), models);
  async function choose() {
    try {
      const { ordered } = await call("/app/label/team/choose", { models: models.value === "all" ? [...models.options].map((each) => each.value).filter((name) => name !== "all") : [models.value] });
      tell(`${ordered} ranking${ordered === 1 ? "" : "s"} in the order of doubt`);
      await added();
    } catch (error) {
      failed(error);
    }
  }
  async function opened() {
    if (!card.open || models.options.length) return;
    const names = await call("/app/label/team/rewards").catch(() => []);
    models.replaceChildren(...names.map((name) => h("option", { value: name }, name)), ...(names.length > 1 ? [h("option", { value: "all" }, "all of them together")] : []));
    choice.hidden = !names.length;
  }
  const card = h(
    "details.card.adding",
    { id: "adding" },
    h("summary", {}, "Add tasks"),
    h("p.about", {}, "JSON lines with ", h("code", {}, "prompt"), " (to be answered) or ", h("code", {}, "prompt"), " and ", h("code", {}, "completions"), " (to be ranked). With ", h("code", {}, "ranks"), ", 0 for the best, they can be a test that labellers must pass first."),
    h("div.row.fields", {}, field("File", file), field("People for each", wanted), field("Per cent of tasks that so many people get", overlap, "one person gets each of the others")),
    h("p", {}, h("label.switch", {}, screening, "These are a screening test")),
    h("div.row", {}, chats, choice),
  );
  card.addEventListener("toggle", opened);
  return card;
}
