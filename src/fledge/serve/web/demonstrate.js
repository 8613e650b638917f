// Demonstrating: the labeller writes the answer; a model's suggestion can be called up and changed, and that is noted.

import { models, stream } from "./api.js";
import { h } from "./dom.js";
import { render } from "./markdown.js";
import { count } from "./numbers.js";
import { tell } from "./shell.js";

const [MOST, LONG, PAUSE] = [200_000, 20_000, 250]; // characters that are kept, that are shown at every key; milliseconds

/** The view of a task: {element, read(), draft()}; `changed` is called at every change, `before` is a draft. */
export function demonstrateView(given, changed, before) {
  const answer = h("textarea", { id: "answer", rows: 8, placeholder: "The answer that you would like the model to give", data: { first: "yes" } });
  const preview = h("div.prose.card.preview", { "aria-label": "As it will look" });
  const size = h("small.size", { id: "size", role: "status" });
  const choice = h("select", { "aria-label": "Model for the suggestion" });
  const button = h("button.button", { type: "button", id: "suggest", disabled: true, on: { click: suggest } }, "Suggest an answer");
  const back = h("button.button", { type: "button", id: "mine-again", hidden: true, on: { click: putBack } }, "My own again");
  let [suggestion, by, own, abort, later] = ["", "", "", null, 0];

  function show() {
    const long = answer.value.length;
    size.textContent = long > LONG ? `${count(long)} of ${count(MOST)} characters` : "";
    clearTimeout(later);
    if (long > LONG) later = setTimeout(() => render(preview, answer.value), PAUSE);
    else render(preview, answer.value);
  }

  function edited() {
    show();
    changed();
  }

  answer.addEventListener("input", edited);
  models().then((names) => {
    choice.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    button.disabled = false;
  }, () => null);

  async function suggest() {
    if (abort) return abort.abort();
    abort = new AbortController();
    button.textContent = "Stop";
    if (answer.value.trim() && answer.value !== suggestion) own = answer.value; // what one wrote oneself is not lost
    [suggestion, by, answer.value] = ["", choice.value, ""];
    try {
      for await (const chunk of stream("/v1/chat/completions", { model: by, messages: given.prompt, temperature: 0.7 }, abort.signal)) {
        suggestion += chunk.choices[0]?.delta?.content || "";
        answer.value = suggestion;
        show();
      }
    } catch (error) {
      if (error.name !== "AbortError") tell(error.message);
    }
    abort = null;
    back.hidden = !own;
    button.textContent = "Suggest another";
    changed();
  }

  function putBack() {
    [answer.value, own] = [own, ""];
    back.hidden = true;
    edited();
    answer.focus();
  }

  if (before) {
    [answer.value, suggestion, by] = [before.answer, before.suggestion, before.by];
    show();
  }
  return {
    element: h("div", {}, h("div.field", {}, h("label", { for: "answer" }, "Your answer"), answer, size), h("div.row", {}, button, choice, back, h("span.about", {}, "Markdown works. A suggestion is kept beside what you make of it.")), preview),
    draft: () => ({ answer: answer.value, suggestion, by }),
    read() {
      const words = answer.value.trim();
      if (!words || words.length > MOST) {
        tell(words ? `At most ${count(MOST)} characters are kept: shorten it` : "Write an answer first, or skip");
        return { content: null };
      }
      return { content: { answer: words, suggestion, suggested_by: by }, doubt: suggestion && suggestion.trim() === words ? "You changed nothing in the suggestion: is every word of it right? Press again to keep it." : "" };
    },
  };
}
