"use strict";
(() => {
  const { tokens, attention } = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const at = (id) => document.getElementById(id);
  const visible = (text) =>
    text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "∅";
  const percent = (p) => (100 * p).toFixed(1) + " %";
  const choose = (items, chosen) => items.forEach((item) => item.classList.toggle("chosen", item === chosen));

  // What follows a token.
  const boxes = all("#tokens .token");
  function follow(box) {
    const token = tokens[box.dataset.t];
    choose(boxes, box);
    if (!token.next) return;
    at("next-of").textContent = visible(token.text);
    at("next-list").replaceChildren(...token.next.map((guess) => {
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
  if (boxes.length) follow(boxes.at(-1));
  if (!attention.length) return;

  // Attention: bytes, 255 is probability 1.
  const size = tokens.length;
  const maps = attention.map((layer) =>
    layer.heads.map((text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0))));
  const heads = all(".head");
  const lookers = all("#lookers .token");
  let chosen = null;
  let token = size - 1;

  function draw(canvas, map) {
    const [red, green, blue] = getComputedStyle(at("map")).getPropertyValue("--accent").trim()
      .match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
    canvas.width = canvas.height = size;
    const image = new ImageData(size, size);
    map.forEach((value, i) => image.data.set([red, green, blue, 255 * Math.sqrt(value / 255)], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  const mapOf = (head) => maps[head.dataset.layer][head.dataset.l];
  function look(t) {
    token = t;
    const row = mapOf(chosen).subarray(t * size, (t + 1) * size);
    lookers.forEach((box, s) => {
      box.style.setProperty("--look", (100 * row[s]) / 255 + "%");
      box.classList.toggle("bright", row[s] > 140);
    });
    choose(lookers, lookers[t]);
    const most = row.indexOf(Math.max(...row));
    at("looked").textContent =
      `‹${visible(tokens[t].text)}› looks most at ‹${visible(tokens[most].text)}› (${percent(row[most] / 255)}).`;
  }
  function take(head) {
    chosen = head;
    choose(heads, head);
    at("chosen").textContent = head.getAttribute("aria-label");
    draw(at("map"), mapOf(head));
    look(token);
  }
  const drawAll = () => heads.forEach((head) => draw(head.querySelector("canvas"), mapOf(head)));
  drawAll();
  take(heads[0]);
  heads.forEach((head) => head.addEventListener("click", () => take(head)));
  lookers.forEach((box, t) => ["mouseenter", "focus", "click"].forEach((what) => box.addEventListener(what, () => look(t))));
  at("map").addEventListener("mousemove", (event) => {
    const box = at("map").getBoundingClientRect();
    look(Math.min(size - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * size))));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawAll(); draw(at("map"), mapOf(chosen)); });
})();
