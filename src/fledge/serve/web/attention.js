// Where the heads looked: a map of one head, and the text shaded by the attention of one token.

import { visible } from "./complete.js";
import { h } from "./dom.js";

/** The view of an inspection's attention. */
export function attentionView(found) {
  if (!found.attention.length) return h("span");
  const maps = found.attention.map((layer) => layer.heads.map(unpacked(found.tokens.length)));
  const state = { layer: maps.length - 1, head: 0, token: found.tokens.length - 1 };
  const layer = h("select", { id: "attention-layer" }, maps.map((_, i) => h("option", { value: i, selected: i === state.layer }, `Layer ${i + 1}`)));
  const head = h("select", { id: "attention-head" }, [h("option", { value: -1 }, "mean of all heads"), ...maps[0].map((_, i) => h("option", { value: i, selected: i === 0 }, `Head ${i + 1}`))]);
  const canvas = h("canvas", { role: "img" });
  const shaded = h("div.tokens.mono", { role: "group", "aria-label": "Choose the token that looks" });
  const buttons = found.tokens.map((token, i) => h("button.token.looked", { type: "button", on: { click: () => set({ token: i }) } }, visible(token.text)));
  shaded.append(...buttons);

  const weights = () => {
    const heads = maps[state.layer];
    if (state.head >= 0) return heads[state.head];
    return heads[0].map((row, t) => row.map((_, k) => heads.reduce((sum, each) => sum + each[t][k], 0) / heads.length));
  };

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  function draw() {
    const map = weights();
    const row = map[state.token];
    buttons.forEach((button, i) => {
      const weight = row[i] ?? 0;
      const says = i > state.token ? "not seen yet" : `${(100 * weight).toFixed(1)} % of the attention`;
      button.style.setProperty("--p", String(weight));
      button.classList.toggle("ahead", i > state.token);
      button.setAttribute("aria-pressed", String(i === state.token));
      button.title = says;
      button.setAttribute("aria-label", `${visible(found.tokens[i].text)}, ${says}`);
    });
    paint(canvas, map, state.token);
    const most = row.slice(0, state.token + 1).reduce((best, weight, i, all) => (weight > all[best] ? i : best), 0);
    canvas.setAttribute("aria-label", `Attention of layer ${state.layer + 1}: ${visible(found.tokens[state.token].text)} looks most at ${visible(found.tokens[most].text)}, ${(100 * row[most]).toFixed(0)} %`);
  }

  layer.addEventListener("change", () => set({ layer: Number(layer.value) }));
  head.addEventListener("change", () => set({ head: Number(head.value) }));
  canvas.addEventListener("click", (event) => set({ token: Math.min(found.tokens.length - 1, Math.floor((event.offsetY / canvas.clientHeight) * found.tokens.length)) }));
  draw();
  return h(
    "section",
    { "aria-label": "Attention" },
    h("h2", {}, "Where it looked"),
    h("p.about", {}, "Each row of the map is a token, each column one that it may look at. Choose a token: the text is shaded by its attention."),
    h("div.row.fields", {}, h("div.field", {}, h("label", { for: "attention-layer" }, "Layer"), layer), h("div.field", {}, h("label", { for: "attention-head" }, "Head"), head)),
    h("div.columns", {}, h("div.card", {}, shaded), h("div.map", {}, canvas)),
  );
}

/** Rows of probabilities, whether they come as numbers or as bytes in base 64 (255 is 1). */
function unpacked(size) {
  return (head) => {
    if (typeof head !== "string") return head;
    const bytes = Uint8Array.from(atob(head), (character) => character.charCodeAt(0));
    return Array.from({ length: size }, (_, t) => Array.from(bytes.subarray(t * size, (t + 1) * size), (byte) => byte / 255));
  };
}

function paint(canvas, map, chosen) {
  const size = map.length;
  const scale = Math.max(2, Math.floor(640 / size));
  canvas.width = canvas.height = size * scale;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const dark = getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) < 384;
  pen.fillStyle = style.getPropertyValue("--accent") && (dark ? "#5cc8b4" : "#17695e");
  map.forEach((row, t) => {
    row.slice(0, t + 1).forEach((weight, k) => {
      pen.globalAlpha = Math.min(1, Math.sqrt(weight));
      pen.fillRect(k * scale, t * scale, scale, scale);
    });
  });
  pen.globalAlpha = 1;
  pen.strokeStyle = dark ? "#ece8df" : "#23211c";
  pen.strokeRect(0.5, chosen * scale + 0.5, (chosen + 1) * scale - 1, scale - 1);
}
