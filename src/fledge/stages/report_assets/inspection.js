"use strict";
(() => {
  const { tokens, source, attention } = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const at = (id) => document.getElementById(id);
  const visible = (text) =>
    text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "∅";
  const percent = (p) => (100 * p).toFixed(1) + " %";
  const choose = (items, chosen) => items.forEach((item) => item.classList.toggle("chosen", item === chosen));

  // What follows a token, or could stand in its place.
  const boxes = all("#tokens .token");
  function follow(box) {
    const token = tokens[box.dataset.t];
    choose(boxes, box);
    const guesses = token.next || token.here;
    if (!guesses) return;
    at("next-of").textContent = visible(token.text);
    at("next-list").replaceChildren(...guesses.map((guess) => {
      const row = document.createElement("li");
      const [said, meter, number] = ["span", "span", "b"].map((tag) => document.createElement(tag));
      said.className = "said";
      said.textContent = visible(guess.text);
      meter.className = "meter";
      meter.append(document.createElement("i"));
      meter.firstChild.style.width = 100 * guess.p + "%";
      number.textContent = percent(guess.p);
      row.append(said, meter, number);
      return row;
    }));
  }
  boxes.forEach((box) => box.addEventListener("click", () => follow(box)));
  const asked = boxes.filter((box) => tokens[box.dataset.t].next || tokens[box.dataset.t].here);
  if (asked.length) follow(asked.at(-1));
  if (!attention.length) return;

  // Attention: bytes, 255 is probability 1. Rows and columns are tokens of the text, or of the source it is made from.
  const texts = { tokens, source };
  const maps = attention.map((layer) => ({
    rows: texts[layer.rows],
    columns: texts[layer.columns],
    heads: layer.heads.map((text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0))),
  }));
  const heads = all(".head");
  let chosen = null;
  let token = -1;
  let lookers = [];
  let lit = [];

  const layerOf = (head) => maps[head.dataset.layer];
  const mapOf = (head) => layerOf(head).heads[head.dataset.l];
  function draw(canvas, head) {
    const [red, green, blue] = getComputedStyle(at("map")).getPropertyValue("--accent").trim()
      .match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
    const { rows, columns } = layerOf(head);
    [canvas.width, canvas.height] = [columns.length, rows.length];
    canvas.style.aspectRatio = Math.min(2, Math.max(0.6, columns.length / rows.length));
    const image = new ImageData(columns.length, rows.length);
    mapOf(head).forEach((value, i) => image.data.set([red, green, blue, 255 * Math.sqrt(value / 255)], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  function box(kind, { text }) {
    const made = document.createElement(kind);
    const said = document.createElement("span");
    made.className = "token";
    said.className = "said";
    said.textContent = visible(text);
    made.append(said);
    return made;
  }
  function look(t) {
    token = t;
    const { rows, columns } = layerOf(chosen);
    const row = mapOf(chosen).subarray(t * columns.length, (t + 1) * columns.length);
    lit.forEach((each, s) => {
      each.style.setProperty("--look", (100 * row[s]) / 255 + "%");
      each.classList.toggle("bright", row[s] > 140);
    });
    choose(lookers, lookers[t]);
    const most = row.indexOf(Math.max(...row));
    at("looked").textContent =
      `‹${visible(rows[t].text)}› looks most at ‹${visible(columns[most].text)}› (${percent(row[most] / 255)}).`;
  }
  function lay(head) {
    const { rows, columns } = layerOf(head);
    const across = rows !== columns;
    lookers = rows.map((each, t) => {
      const made = box("button", each);
      made.type = "button";
      ["mouseenter", "focus", "click"].forEach((what) => made.addEventListener(what, () => look(t)));
      return made;
    });
    lit = across ? columns.map((each) => box("span", each)) : lookers;
    at("lookers").replaceChildren(...lookers);
    at("lit").replaceChildren(...(across ? lit : []));
    at("across").hidden = !across;
  }
  function take(head) {
    const before = chosen && layerOf(chosen);
    const now = layerOf(head);
    if (!before || before.rows !== now.rows || before.columns !== now.columns) {
      lay(head);
      if (before?.rows !== now.rows) token = now.rows.length - 1;
    }
    chosen = head;
    choose(heads, head);
    at("chosen").textContent = head.getAttribute("aria-label");
    draw(at("map"), head);
    look(token);
  }
  const drawAll = () => heads.forEach((head) => draw(head.querySelector("canvas"), head));
  drawAll();
  take(heads[0]);
  heads.forEach((head) => head.addEventListener("click", () => take(head)));
  at("map").addEventListener("mousemove", (event) => {
    const area = at("map").getBoundingClientRect();
    const { rows } = layerOf(chosen);
    look(Math.min(rows.length - 1, Math.max(0, Math.floor(((event.clientY - area.top) / area.height) * rows.length))));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawAll(); draw(at("map"), chosen); });
})();
