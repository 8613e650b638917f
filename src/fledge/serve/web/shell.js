// What every page has: the bar with the places, the theme, the key dialog, the shortcuts, short notices.

import { key, whenKeyIsNeeded } from "./api.js";
import { $, field, h, iconButton } from "./dom.js";

const PLACES = [["/", "Chat"], ["/playground", "Playground"], ["/inspect", "Inspect"], ["/runs", "Runs"], ["/label", "Label"]];
const EVERYWHERE = [["?", "this list"], ["Alt 1 … 5", "go to Chat, Playground, Inspect, Runs, Label"]];

/** Builds the bar; `shortcuts` are the page's own, as [keys, what they do]. */
export function shell(shortcuts = []) {
  const here = location.pathname;
  const links = PLACES.map(([path, name]) => h("a", { href: path, "aria-current": path === here ? "page" : null }, name));
  const theme = iconButton("moon", "Change between light and dark", turn);
  const bar = h(
    "header.bar-top",
    {},
    h("a.skip", { href: "#main" }, "Skip to the content"),
    h("a.brand", { href: "/" }, h("img", { src: "/web/icon.svg", alt: "" }), "fledge"),
    h("nav.places", { "aria-label": "Places" }, links),
    h("div.row", { id: "tools" }, iconButton("help", "Keyboard shortcuts", () => showShortcuts(shortcuts)), iconButton("key", "API key", () => askForKey()), theme),
  );
  document.body.prepend(bar);
  document.body.append(h("div.toasts", { id: "toasts", role: "status", "aria-live": "polite" }));
  document.addEventListener("keydown", (event) => {
    if (event.altKey && PLACES[event.key - 1]) location.href = PLACES[event.key - 1][0];
    else if (event.key === "?" && !isTyping(event.target)) showShortcuts(shortcuts);
  });
  whenKeyIsNeeded(askForKey);
  return bar;
}

/** Whether an element takes text, so that single keys are not shortcuts. */
export const isTyping = (target) => target.matches?.("input, textarea, select, [contenteditable]");

function turn() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const theme = dark ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("fledge.theme", theme);
}

/** A short notice that goes away by itself and is read out. */
export function tell(text) {
  const toast = h("div.toast", {}, text);
  $("toasts").append(toast);
  setTimeout(() => toast.remove(), 3500);
}

/** Opens a dialog with a title and some content; it is removed when it closes. */
export function openDialog(title, ...content) {
  const dialog = h("dialog", { "aria-label": title }, h("h2", {}, title), content);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

function showShortcuts(own) {
  if (document.querySelector("dialog[open]")) return;
  const rows = [...own, ...EVERYWHERE].flatMap(([keys, what]) => [h("dt", {}, keys.split(" ").flatMap((k) => [h("kbd", {}, k), " "])), h("dd", {}, what)]);
  const dialog = openDialog("Keyboard", h("dl.keys", {}, rows), h("p"), h("button.button", { type: "button", on: { click: () => dialog.close() } }, "Close"));
}

function askForKey() {
  const input = h("input", { type: "password", value: key(), autocomplete: "off", placeholder: "fl-…" });
  const save = h("button.primary", { type: "submit" }, "Use this key");
  const form = h("form", { method: "dialog" }, field("API key", input, "Kept in this browser only. Your server's administrator gives you one."), save);
  const dialog = openDialog("This server asks for a key", form);
  return new Promise((done) => {
    let given = false;
    form.addEventListener("submit", () => {
      given = Boolean(input.value.trim());
      if (given) localStorage.setItem("fledge.key", input.value.trim());
      else localStorage.removeItem("fledge.key");
    });
    dialog.addEventListener("close", () => done(given));
  });
}

/** Hands the reader a file. */
export function download(name, text, type = "application/jsonl") {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
