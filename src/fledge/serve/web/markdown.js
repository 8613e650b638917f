// Markdown as models write it, built as elements: no HTML passes, no image is fetched, links are http(s) or mailto.
// Blocks: headings, paragraphs, lists, quotes, fenced code, tables, rules. Inline: code, strong, emphasis, links.
// Left out: reference links, footnotes, HTML, setext headings.

import { h, icon } from "./dom.js";
import { highlight } from "./highlight.js";

const FENCE = /^(\s{0,3})(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^\s{0,3}>\s?/;
const RULE = /^\s{0,3}([-*_])\s*(?:\1\s*){2,}$/;
const DIVIDER = /^\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)*\|?\s*$/;
const INLINE =
  /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|__(?=\S)([\s\S]*?\S)__(?!\w)|\*(?=[^\s*])([^*\n]*?[^\s*])\*|(?<!\w)_(?=[^\s_])([^_\n]*?[^\s_])_(?!\w)|~~(?=\S)([\s\S]*?\S)~~|!?\[([^\]\n]*)\]\(([^)\s]+)(?:\s+"[^"]*")?\)|(https?:\/\/[^\s<>"')\]]+)|\\([\\`*_{}[\]()#+.!~>|-])/g;

/** Shows `text` in `target`; blocks that have not changed since the last call keep their elements. */
export function render(target, text) {
  const blocks = split(text);
  const kept = target.blocks || [];
  let same = 0;
  while (same < blocks.length && same < kept.length && kept[same] === blocks[same]) same += 1;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...blocks.slice(same).map((block) => element(block)));
  target.blocks = blocks;
}

const DEEPEST = 12; // quotes and lists within each other
const LONGEST = 20_000; // characters of one block that are looked through for marks

/** The source of each top-level block. */
export function split(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      i += 1;
      continue;
    }
    const start = i;
    const fence = lines[i].match(FENCE);
    if (fence) {
      i += 1;
      while (i < lines.length && !closes(lines[i], fence[2])) i += 1;
      i += 1;
    } else if (HEADING.test(lines[i]) || RULE.test(lines[i])) i += 1;
    else if (ITEM.test(lines[i])) {
      i += 1;
      while (i < lines.length && continuesList(lines, i)) i += 1;
    } else if (QUOTE.test(lines[i])) while (i < lines.length && lines[i].trim() && (QUOTE.test(lines[i]) || !starts(lines[i]))) i += 1;
    else {
      i += 1;
      while (i < lines.length && lines[i].trim() && !starts(lines[i])) i += 1;
    }
    blocks.push(lines.slice(start, i).join("\n"));
  }
  return blocks;
}

const closes = (line, mark) => line.trim().length >= mark.length && [...line.trim()].every((c) => c === mark[0]);
const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);

function continuesList(lines, i) {
  if (ITEM.test(lines[i]) || /^\s{2,}\S/.test(lines[i])) return !RULE.test(lines[i]);
  if (!lines[i].trim()) return i + 1 < lines.length && (ITEM.test(lines[i + 1]) || /^\s{2,}\S/.test(lines[i + 1]));
  return !starts(lines[i]) && Boolean(lines[i - 1].trim());
}

function element(block, depth = 0) {
  if (depth > DEEPEST) return h("p", {}, block);
  const within = (text) => split(text).map((part) => element(part, depth + 1));
  const lines = block.split("\n");
  const fence = lines[0].match(FENCE);
  if (fence) return codeBlock(lines, fence);
  const heading = lines[0].match(HEADING);
  if (heading) return h(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2]));
  if (RULE.test(lines[0])) return h("hr");
  if (ITEM.test(lines[0])) return list(lines, within);
  if (QUOTE.test(lines[0])) return h("blockquote", {}, within(lines.map((line) => line.replace(QUOTE, "")).join("\n")));
  if (lines.length > 1 && lines[0].includes("|") && DIVIDER.test(lines[1])) return table(lines);
  return h("p", {}, lines.flatMap((line, i) => [...(i ? [h("br")] : []), ...inline(line.trim())]));
}

function codeBlock(lines, fence) {
  const last = lines.length > 1 && closes(lines.at(-1), fence[2]) ? -1 : undefined;
  const code = lines.slice(1, last).map((line) => (line.startsWith(fence[1]) ? line.slice(fence[1].length) : line)).join("\n");
  const copy = h("button.ghost", { type: "button", "aria-label": "Copy the code" }, icon("copy"), "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.lastChild.data = "Copied";
    setTimeout(() => (copy.lastChild.data = "Copy"), 1500);
  });
  const bar = h("div.code-bar", {}, h("span", {}, fence[3] || "code"), copy);
  return h("div.code", {}, bar, h("pre", { tabindex: "0", role: "group", "aria-label": "Code" }, h("code", {}, highlight(code, fence[3]))));
}

function list(lines, within) {
  const first = lines[0].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const node = h(ordered ? "ol" : "ul", ordered && Number.parseInt(first[2]) !== 1 ? { start: Number.parseInt(first[2]) } : {});
  let own = [];
  const indent = first[1].length;
  const flush = () => {
    if (!own.length) return;
    const [head, ...rest] = own;
    const margin = Math.min(...rest.filter((line) => line.trim()).map((line) => line.match(/^\s*/)[0].length), 99);
    const inner = rest.map((line) => line.slice(Math.min(margin, line.match(/^\s*/)[0].length)));
    const task = head.match(/^\[([ xX])\]\s+(.*)$/);
    const lead = task ? [task[1] === " " ? "☐ " : "☑ ", ...inline(task[2])] : inline(head);
    node.append(h("li", {}, lead, inner.some((line) => line.trim()) ? within(inner.join("\n")) : null));
    own = [];
  };
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item && item[1].length <= indent + 1 && /\d/.test(item[2]) === ordered) {
      flush();
      own = [item[3]];
    } else own.push(line);
  }
  flush();
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "number") : ""));
  const row = (line, tag) => h("tr", {}, cells(line).map((cell, i) => h(tag, sides[i] ? { class: sides[i] } : {}, inline(cell))));
  const body = lines.slice(2).map((line) => row(line, "td"));
  return h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Table" }, h("table", {}, h("thead", {}, row(lines[0], "th")), h("tbody", {}, body)));
}

/** The nodes of a line of text. */
export function inline(text, depth = 0) {
  if (text.length > LONGEST || depth > DEEPEST) return [text];
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, strong, bold, emphasis, italic, struck, label, address, bare, escaped] = found;
    if (found.index > end) nodes.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code !== undefined) nodes.push(h("code", {}, code.replace(/^ (.*) $/, "$1")));
    else if (strong ?? bold) nodes.push(h("strong", {}, inline(strong ?? bold, depth + 1)));
    else if (emphasis ?? italic) nodes.push(h("em", {}, inline(emphasis ?? italic, depth + 1)));
    else if (struck) nodes.push(h("s", {}, inline(struck, depth + 1)));
    else if (address !== undefined) nodes.push(link(label || address, address, whole));
    else if (bare) nodes.push(link(bare, bare, whole));
    else nodes.push(escaped);
  }
  nodes.push(text.slice(end));
  return nodes;
}

function link(label, address, whole) {
  if (!/^(https?:|mailto:)/i.test(address)) return whole;
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}
