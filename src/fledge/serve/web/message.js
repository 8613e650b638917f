// One turn on the page: its text, what it took, and what one can do with it.

import { h, iconButton } from "./dom.js";
import { render } from "./markdown.js";
import { PRICES, told } from "./meter.js";
import { remembered } from "./sampling.js";
import { openDialog, tell } from "./shell.js";
import { siblings } from "./tree.js";

/** The element of a node; `act` holds edit, regenerate, rate and flip. */
export function messageView(node, conversation, act) {
  const who = node.role === "user" ? "You" : node.model || "Assistant";
  const shown = h(`article.message.${node.role}`, { data: { id: node.id }, "aria-label": `${who}:` });
  const body = h("div.body");
  if (node.role === "user") body.textContent = node.content;
  else body.classList.add("prose");
  const tools = h("div.tools", {}, branches(node, conversation, act), ...(node.role === "user" ? userTools(node, act) : answerTools(node, act)));
  shown.append(body, tools);
  if (node.role === "assistant") showAnswer(shown, node);
  return shown;
}

/** Brings an answer's text and figures up to date, leaving alone what has not changed. */
export function showAnswer(shown, node) {
  const body = shown.querySelector(".body");
  if (node.content) {
    body.querySelector(".waiting")?.remove();
    render(body, node.content);
  } else if (!node.error && node.stopped && !node.figures) body.replaceChildren(h("span.waiting", { "aria-label": "waiting" }, h("i"), h("i"), h("i")));
  const figures = shown.querySelector(".figures");
  if (node.figures) figures.replaceChildren(...told(node.figures, remembered("prices", PRICES)).map(([text, title]) => h("span", { title }, text)));
  shown.querySelector(".alert")?.remove();
  if (node.error) body.after(h("p.alert", { role: "alert" }, node.error));
}

function branches(node, conversation, act) {
  const { index, ids } = siblings(conversation, node);
  if (ids.length < 2) return null;
  const flip = (offset) => () => act.flip(node, offset);
  return h("span.branches", { role: "group", "aria-label": "Versions" }, iconButton("left", "Previous version", flip(-1)), h("span", {}, `${index + 1} / ${ids.length}`), iconButton("right", "Next version", flip(1)));
}

const copyTool = (node) =>
  iconButton("copy", "Copy", async () => {
    await navigator.clipboard.writeText(node.content);
    tell("Copied");
  });

function userTools(node, act) {
  return [copyTool(node), iconButton("edit", "Edit and branch", (event) => act.edit(node, event))];
}

function answerTools(node, act) {
  const pressed = (rating) => ({ "aria-pressed": String(node.rating === rating) });
  const notes = [];
  if (node.finish === "length") notes.push(h("span.badge.fair", { title: "It reached the longest answer that the settings allow" }, "cut off"));
  else if (node.stopped && node.figures && !node.error) notes.push(h("span.badge", {}, "stopped"));
  if (node.correction) notes.push(h("span.badge.good", { title: node.correction }, "corrected"));
  return [
    copyTool(node),
    iconButton("again", "Answer again", () => act.regenerate(node)),
    iconButton("up", "Good answer", () => act.rate(node, 1), pressed(1)),
    iconButton("down", "Bad answer", () => correct(node, act), pressed(-1)),
    ...notes,
    h("span.figures"),
  ];
}

function correct(node, act) {
  const text = h("textarea", { id: "correction", rows: 7, value: node.correction || node.content });
  const given = () => (text.value.trim() === node.content.trim() ? "" : text.value.trim());
  const form = h(
    "form",
    { method: "dialog" },
    h("p", {}, "It is kept as a bad answer. If you know better, write what it should have said: the next model learns from it."),
    h("div.field", {}, h("label", { for: "correction" }, "A better answer (optional)"), text),
    h("div.row", {}, h("span.grow"), h("button.button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"), h("button.primary", { type: "submit" }, "Keep")),
  );
  const dialog = openDialog("What was wrong?", form);
  form.addEventListener("submit", () => act.rate(node, -1, given()));
  text.focus();
  text.select();
}
