// What people agree to before their judgements count, and what they can do about it afterwards.

import { call, erase } from "./api.js";
import { h } from "./dom.js";
import { render } from "./markdown.js";
import { download, openDialog, tell } from "./shell.js";

const about = (person) => `me=${encodeURIComponent(person)}`;

/** What one agrees to, as text: {version, text, agreed}. */
export const terms = (person) => call(`/app/feedback/consent?${about(person)}`);

export const agree = (person, given) => call("/app/feedback/consent", { given, me: person });

/** The screen before the first task; `agreed` is called when the person has. */
export function consentView({ version, text }, person, agreed, failed) {
  const body = h("div.prose");
  render(body, text);
  const yes = h("button.primary", { type: "button", id: "agree", data: { first: "yes" }, on: { click: async () => {
    yes.disabled = true;
    try {
      await agree(person, true);
      await agreed();
    } catch (error) {
      failed(error);
    }
    yes.disabled = false;
  } } }, "I agree, let me begin");
  return h("section.card.consent", { "aria-label": "Consent" }, h("h2", {}, "What happens to what you say"), body, h("p.about", {}, `Please read the guideline as well: you agree under its version ${version}. It is kept that you did, and when.`), h("div.row", {}, yes, h("a.button", { href: "/" }, "Not now")));
}

/** The same question in a dialog, for the chat; resolves to whether the person agreed. */
export async function askConsent() {
  const { text, agreed, version } = await terms("");
  if (agreed === version) return true;
  const body = h("div.prose");
  render(body, text);
  const form = h("form", { method: "dialog" }, body, h("div.row", {}, h("span.grow"), h("button.button", { type: "button", on: { click: () => dialog.close() } }, "Rather not"), h("button.primary", { type: "submit" }, "I agree")));
  const dialog = openDialog("May your ratings train models?", form);
  return new Promise((done) => {
    let said = false;
    form.addEventListener("submit", () => (said = true));
    dialog.addEventListener("close", async () => {
      if (said) await agree("", true);
      done(said);
    });
  });
}

/** The card at the foot of the page: take everything away, withdraw, erase. */
export function yourData(person, changed, failed) {
  const act = (work) => async () => {
    try {
      await work();
    } catch (error) {
      failed(error);
    }
  };
  const take = act(async () => {
    const rows = await call(`/app/feedback/mine?${about(person())}`);
    download("what-i-said.jsonl", rows.map((row) => JSON.stringify(row)).join("\n") + "\n");
  });
  const withdraw = act(async () => {
    if (!(await sure("Withdraw your agreement?", "Nothing that you said trains a model from now on. It is kept, and counts again if you agree again.", "Withdraw"))) return;
    await agree(person(), false);
    tell("Withdrawn");
    await changed();
  });
  const forget = act(async () => {
    if (!(await sure("Erase all that you said?", "Your answers, rankings, ratings and their chats are deleted for good, and your name with them.", "Erase it"))) return;
    const { erased } = await erase(`/app/feedback/mine?${about(person())}`);
    tell(`${erased} judgement${erased === 1 ? "" : "s"} erased`);
    await changed();
  });
  return h("details.card.adding", { id: "your-data" }, h("summary", {}, "What you said is yours"), h("p.about", {}, "Take it away in a file, withdraw your agreement so that it no longer counts, or have it erased."), h("div.row", {}, h("button.button", { type: "button", on: { click: take } }, "Take it away"), h("button.button", { type: "button", id: "withdraw", on: { click: withdraw } }, "Withdraw"), h("button.button.danger", { type: "button", id: "erase", on: { click: forget } }, "Erase…")));
}

function sure(title, words, action) {
  const form = h("form", { method: "dialog" }, h("p", {}, words), h("div.row", {}, h("span.grow"), h("button.button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"), h("button.primary", { type: "submit" }, action)));
  const dialog = openDialog(title, form);
  return new Promise((done) => {
    let said = false;
    form.addEventListener("submit", () => (said = true));
    dialog.addEventListener("close", () => done(said));
  });
}
