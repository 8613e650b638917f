// In-context learning (arXiv:2005.14165): the same question with no, one and a few examples of the task.

import { field, h, icon, iconButton } from "./dom.js";
import { modelChoice, outputPlace, runButton } from "./running.js";
import { asRequest, remember, remembered } from "./sampling.js";

const TASKS = {
  "Python names": {
    task: "Answer questions about Python.",
    examples: [["What does abs do?", "Return the absolute value of the argument."], ["What does math.sqrt do?", "Return the square root of x."], ["What does os.getcwd do?", "Return a unicode string representing the current working directory."]],
    question: "What does json.dumps do?",
  },
  Translation: { task: "Translate English to French.", examples: [["sea otter", "loutre de mer"], ["peppermint", "menthe poivrée"], ["good morning", "bonjour"]], question: "cheese" },
  Sentiment: { task: "Is the review positive or negative?", examples: [["A joy from start to end.", "positive"], ["I want my two hours back.", "negative"], ["Funny, warm and clever.", "positive"]], question: "Dull, and far too long." },
};
const SHOTS = [["Zero", "no example"], ["One", "one example"], ["Few", "all examples"]];

/** The prompt as text: the task, `shots` examples and the question. */
export function asText(template, shots) {
  const { task, examples, question, ask, say } = template;
  const shown = examples.slice(0, shots).map(([q, a]) => `${ask} ${q}\n${say} ${a}\n\n`);
  return `${task ? `${task}\n\n` : ""}${shown.join("")}${ask} ${question}\n${say}`;
}

/** The prompt as a conversation: the task is the system message, examples are earlier turns. */
export function asTurns(template, shots) {
  const { task, examples, question } = template;
  const shown = examples.slice(0, shots).flatMap(([q, a]) => [{ role: "user", content: q }, { role: "assistant", content: a }]);
  return [...(task ? [{ role: "system", content: task }] : []), ...shown, { role: "user", content: question }];
}

/** The mode's element; `sampling()` gives the dials as they stand. */
export function fewShot(cards, sampling) {
  const kept = remembered("fewshot", { ...TASKS["Python names"], ask: "Q:", say: "A:", chat: false, model: cards[0].id });
  const choice = modelChoice(cards, kept.model);
  const input = (name, value) => h("input", { type: "text", name, value });
  const [ask, say, question] = [input("ask", kept.ask), input("say", kept.say), input("question", kept.question)];
  const task = h("textarea", { rows: 2, value: kept.task, name: "task" });
  const chat = h("input", { type: "checkbox", checked: kept.chat });
  const list = h("ol.examples");
  const preset = h("select", { "aria-label": "Task" }, Object.keys(TASKS).map((name) => h("option", {}, name)));
  const columns = SHOTS.map(([name, what]) => {
    const place = outputPlace(`Answer with ${what}`);
    const shown = h("pre.mono", { tabindex: "0", role: "region", "aria-label": `Prompt with ${what}` });
    return { place, shown, element: h("section.card.model", { "aria-label": `${name} shot` }, h("h2", {}, `${name}-shot`), h("details", {}, h("summary", {}, "the prompt"), shown), place.element) };
  });

  const template = () => ({ task: task.value.trim(), ask: ask.value.trim(), say: say.value.trim(), question: question.value.trim(), examples: [...list.children].map((each) => [...each.querySelectorAll("input")].map((part) => part.value)) });
  const shots = (i) => [0, 1, list.children.length][i];

  function changed() {
    const now = template();
    remember("fewshot", { ...now, chat: chat.checked, model: choice.value });
    columns.forEach((column, i) => (column.shown.textContent = chat.checked ? asTurns(now, shots(i)).map((turn) => `${turn.role}: ${turn.content}`).join("\n") : asText(now, shots(i))));
  }

  function example(q = "", a = "") {
    const row = h("li", {}, h("div.row", {}, h("input", { type: "text", value: q, "aria-label": "Question of the example" }), h("input", { type: "text", value: a, "aria-label": "Answer of the example" }), iconButton("bin", "Remove this example", () => row.remove() || changed())));
    list.append(row);
  }

  function load(values) {
    [task.value, question.value] = [values.task, values.question];
    list.replaceChildren();
    for (const [q, a] of values.examples) example(q, a);
    changed();
  }

  preset.addEventListener("change", () => load(TASKS[preset.value]));
  const run = () => {
    changed();
    return Promise.all(
      columns.map(({ place }, i) => {
        const shared = { model: choice.value, ...asRequest(sampling()) };
        if (chat.checked) return place.run("/v1/chat/completions", { ...shared, messages: asTurns(template(), shots(i)) });
        return place.run("/v1/completions", { ...shared, prompt: asText(template(), shots(i)), stop: [...(shared.stop || []), "\n"] }, { plain: true });
      }),
    );
  };
  const button = runButton("Run zero, one and few", run, () => columns.forEach((column) => column.place.stop()), [question]);
  button.id = "run-fewshot";
  const form = h(
    "div",
    { on: { input: changed } },
    h("div.pair.wide", {}, field("Task", preset), field("Model", choice)),
    field("Instruction", task),
    h("fieldset", {}, h("legend", {}, "Examples"), list, h("button.button", { type: "button", on: { click: () => example() || changed() } }, icon("plus"), "Another example")),
    field("Question", question),
    h("div.row", {}, h("div.pair.marks", {}, field("Before a question", ask), field("Before an answer", say)), h("label.switch", {}, chat, "as a conversation")),
  );
  load(kept);
  return h("div", {}, h("p.about", {}, "The same task with no example, one and all of them: how much does the model learn from the prompt alone?"), form, h("div.row", {}, button), h("div.models", {}, columns.map((column) => column.element)));
}
