// Code in a few colours: comments, strings, numbers and keywords, by one regular expression. No grammar, no surprises.

import { h } from "./dom.js";

const WORDS = {
  python:
    "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return True try while with yield self",
  c: "auto bool break case catch char class const continue default delete do double else enum export extends extern false final float fn for func function if impl implements import in instanceof int interface let long loop match mut new null private protected pub public return self short static struct super switch this throw trait true try type typeof undefined unsigned use var void while yield async await",
  shell: "if then else elif fi for do done while case esac in function export return local echo cd",
  sql: "select from where join left right inner outer on group by order having limit insert into values update set delete create table index primary key not null and or as distinct union all",
};
const FAMILY = { py: "python", python: "python", python3: "python", pycon: "python", sh: "shell", bash: "shell", shell: "shell", console: "shell", sql: "sql", yaml: "shell", toml: "shell", r: "python", ruby: "python" };
const HASH = /(#[^\n]*)/;
const SLASH = /(\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$))/;
const DASH = /(--[^\n]*)/;
const REST = /("""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)|\b(\d[\w.]*)|([A-Za-z_]\w*)/;

/** The nodes of a piece of code; `language` as it stands behind the fence. */
export function highlight(code, language) {
  const family = FAMILY[language.toLowerCase()] || (language ? "c" : "python");
  const words = new Set(WORDS[family].split(" "));
  const comment = { python: HASH, shell: HASH, sql: DASH }[family] || SLASH;
  const pattern = new RegExp(`${comment.source}|${REST.source}`, "g");
  const nodes = [];
  let end = 0;
  for (const found of code.matchAll(pattern)) {
    const [text, remark, string, number, word] = found;
    const known = word && words.has(family === "sql" ? word.toLowerCase() : word);
    const kind = remark ? "remark" : string ? "string" : number ? "number" : known ? "keyword" : "";
    if (!kind) continue;
    if (found.index > end) nodes.push(code.slice(end, found.index));
    nodes.push(h(`span.${kind}`, {}, text));
    end = found.index + text.length;
  }
  nodes.push(code.slice(end));
  return nodes;
}
