// Demonstrating: the labeller writes the answer; a model's suggestion can be called up and changed, and that is noted.

import { models, stream } from "./api.js";
import { h } from "./dom.js";
import { render } from "./markdown.js";
import { tell } from "./shell.js";

/** The view of a task: {element, read()}. */
export function demonstrateView(given) {
  const answer = h("textarea", { id: "answer", rows: 8, placeholder: "The answer that you would like the model to give", data: { first: "yes" } });
  const preview = h("div.prose.card.preview", { "aria-label": "As it will look" });
  const choice = h("select", { "aria-label": "Model for the suggestion" });
  const button = h("button.button", { type: "button", id: "suggest", disabled: true, on: { click: suggest } }, "Suggest an answer");
  let [suggestion, abort] = ["", null];

  const show = () => render(preview, answer.value);
  answer.addEventListener("input", show);
  models().then((names) => {
    choice.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    button.disabled = false;
  }, () => null);

  async function suggest() {
    if (abort) return abort.abort();
    abort = new AbortController();
    button.textContent = "Stop";
    [suggestion, answer.value] = ["", ""];
    try {
      for await (const chunk of stream("/v1/chat/completions", { model: choice.value, messages: given.prompt, temperature: 0.7 }, abort.signal)) {
        suggestion += chunk.choices[0]?.delta?.content || "";
        answer.value = suggestion;
        show();
      }
    } catch (error) {
      if (error.name !== "AbortError") tell(error.message);
    }
    abort = null;
    button.textContent = "Suggest another";
  }

  return {
    element: h("div", {}, h("div.field", {}, h("label", { for: "answer" }, "Your answer"), answer), h("div.row", {}, button, choice, h("span.about", {}, "Markdown works. A suggestion is kept beside what you make of it.")), preview),
    read() {
      if (!answer.value.trim()) {
        tell("Write an answer first, or skip");
        return { content: null };
      }
      return { content: { answer: answer.value.trim(), suggestion }, doubt: suggestion && suggestion.trim() === answer.value.trim() ? "You changed nothing in the suggestion: is every word of it right? Press again to keep it." : "" };
    },
  };
}
