// Ranking: blind answers in an order of their own, moved by dragging, by buttons or by keys; ties; flags; quality.

import { h, icon, iconButton } from "./dom.js";
import { render } from "./markdown.js";
import { count } from "./numbers.js";
import { isTyping } from "./shell.js";

const FLAGS = [["wrong", "wrong"], ["hallucinated", "makes something up"], ["harmful", "harmful"], ["off-task", "does not follow the instruction"]];
const LONG = 4000; // characters from which on an answer is folded

/** The view of a task: {element, read(), draft()}; `changed` is called at every change, `before` is a draft. */
export function rankView(given, changed, before) {
  const list = h("ol.ranking", { "aria-label": "Answers, the best first" });
  const live = h("p.role", { role: "status" });
  let touched = false;

  const cards = () => [...list.children];
  const tied = (card) => card.dataset.tied === "yes";

  function ranks() {
    let rank = 0;
    return cards().map((card, i) => (i && !tied(card) ? (rank += 1) : rank));
  }

  function draw(say = "") {
    const now = ranks();
    cards().forEach((card, i) => {
      if (!i) card.dataset.tied = "no";
      card.querySelector(".place").textContent = String(now[i] + 1);
      card.setAttribute("aria-label", `Answer ${card.dataset.letter}, place ${now[i] + 1}${tied(card) ? ", tied with the one above" : ""}`);
      card.querySelector(".tie").setAttribute("aria-pressed", String(tied(card)));
      card.querySelector(".tie").disabled = !i;
    });
    if (say) live.textContent = say;
  }

  function touch(card, what) {
    touched = true;
    draw(`${card.getAttribute("aria-label")}`);
    draw(`Answer ${card.dataset.letter} ${what}`);
    changed();
  }

  /** Puts a card at an index; it is no longer tied, and neither is what followed it. */
  function move(card, to) {
    const all = cards();
    const from = all.indexOf(card);
    const target = Math.max(0, Math.min(all.length - 1, to));
    if (from === target) return touch(card, `stays in place ${ranks()[from] + 1}`); // that was a decision as well
    if (all[from + 1] && !tied(card)) all[from + 1].dataset.tied = "no";
    card.dataset.tied = "no";
    list.insertBefore(card, target > from ? all[target].nextSibling : all[target]);
    touch(card, `is now in place ${ranks()[cards().indexOf(card)] + 1}`);
  }

  function tie(card) {
    if (card === list.firstChild) return;
    card.dataset.tied = tied(card) ? "no" : "yes";
    touch(card, tied(card) ? "is tied with the one above" : "is no longer tied");
  }

  /** Follows the pointer until it is lifted. The document listens: a card that moves in the page loses its capture. */
  function grab(card, event) {
    event.preventDefault();
    card.classList.add("held");
    const follow = (moved) => {
      const others = cards().filter((other) => other !== card);
      const before = others.find((other) => moved.clientY < other.getBoundingClientRect().top + other.offsetHeight / 2);
      const to = before ? cards().indexOf(before) : cards().length;
      const from = cards().indexOf(card);
      const target = to > from ? to - 1 : to;
      if (target !== from) move(card, target);
    };
    const drop = () => {
      card.classList.remove("held");
      document.removeEventListener("pointermove", follow);
      document.removeEventListener("pointerup", drop);
      document.removeEventListener("pointercancel", drop);
    };
    document.addEventListener("pointermove", follow);
    document.addEventListener("pointerup", drop);
    document.addEventListener("pointercancel", drop);
  }

  function cardOf(answer, i) {
    const letter = String.fromCharCode(65 + i);
    const body = h("div.prose");
    render(body, answer.text || "(empty)");
    const whole = answer.text.length > LONG && h("button.ghost.whole", { type: "button", on: { click: () => (body.classList.remove("cut"), whole.remove()) } }, `Show all ${count(answer.text.length)} characters`);
    if (whole) body.classList.add("cut");
    const handle = h("span.handle", { "aria-hidden": "true", title: "Drag to rank" }, icon("menu"));
    const flags = FLAGS.map(([name, label]) => h("label.switch.flag", {}, h("input", { type: "checkbox", name: "flag", value: name, on: { change: changed } }), label));
    const quality = h("select", { "aria-label": `Quality of answer ${letter}`, on: { change: changed } }, h("option", { value: "" }, "–"), [1, 2, 3, 4, 5, 6, 7].map((n) => h("option", { value: n }, String(n))));
    const card = h(
      "li.card.answer",
      { tabindex: "0", data: { id: answer.id, letter, tied: "no", ...(i ? {} : { first: "yes" }) } },
      h("div.side", {}, h("span.place", {}, ""), handle),
      h("div.said", {}, body, whole, h("div.row.marks", {}, flags, h("label.switch", {}, "quality ", quality))),
      h("div.moves", {}, iconButton("left", `Move answer ${letter} up`, () => move(card, cards().indexOf(card) - 1), { class: "ghost rise" }), iconButton("right", `Move answer ${letter} down`, () => move(card, cards().indexOf(card) + 1), { class: "ghost sink" }), h("button.ghost.tie", { type: "button", "aria-pressed": "false", title: "Tie with the one above", "aria-label": `Answer ${letter}: tie with the one above`, on: { click: () => tie(card) } }, "=")),
    );
    handle.addEventListener("pointerdown", (event) => grab(card, event));
    card.addEventListener("keydown", (event) => keys(event, card));
    return card;
  }

  function keys(event, card) {
    if (isTyping(event.target) && event.target.type !== "checkbox") return;
    const at = cards().indexOf(card);
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && event.altKey) move(card, at + step);
    else if (step) cards()[at + step]?.focus();
    else if (event.key === "t") tie(card);
    else if (/^[1-9]$/.test(event.key) && !event.altKey && !event.ctrlKey) move(card, Number(event.key) - 1);
    else return;
    event.preventDefault();
    if (!step || event.altKey) card.focus();
  }

  function restore({ order, tied, flags, quality, note: words }) {
    const of = Object.fromEntries(cards().map((card) => [card.dataset.id, card]));
    list.append(...order.map((id) => of[id]).filter(Boolean));
    for (const [id, card] of Object.entries(of)) {
      card.dataset.tied = tied.includes(id) ? "yes" : "no";
      for (const box of card.querySelectorAll("[name=flag]")) box.checked = (flags[id] || []).includes(box.value);
      card.querySelector("select").value = quality[id] || "";
    }
    note.value = words;
    touched = true;
  }

  function marks() {
    const flags = Object.fromEntries(cards().map((card) => [card.dataset.id, [...card.querySelectorAll("[name=flag]:checked")].map((box) => box.value)]).filter(([, found]) => found.length));
    const quality = Object.fromEntries(cards().map((card) => [card.dataset.id, Number(card.querySelector("select").value)]).filter(([, value]) => value));
    return { flags, quality, note: note.value };
  }

  list.append(...given.answers.map(cardOf));
  const note = h("textarea", { rows: 2, id: "note", placeholder: "anything worth saying (optional)", "aria-label": "Note", on: { input: changed } });
  if (before) restore(before);
  draw();
  return {
    element: h("div", {}, h("p.about", {}, "The best on top. Drag, use the arrows, or press a number; = ties an answer with the one above."), list, live, note),
    draft: () => ({ order: cards().map((card) => card.dataset.id), tied: cards().filter(tied).map((card) => card.dataset.id), ...marks() }),
    read: () => ({
      content: { completions: cards().map((card) => Number(card.dataset.id)), ranks: ranks(), ...marks() },
      doubt: touched ? "" : "You have moved nothing: is the first one the best? Press again to keep this order.",
    }),
  };
}
