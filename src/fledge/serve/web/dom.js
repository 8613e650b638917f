// Elements without innerHTML: text given here is text, whatever a model or a person wrote into it.

const SVG = "http://www.w3.org/2000/svg";

// Stroked on a 24 × 24 grid.
const ICONS = {
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2-4.9M19 4v4h-4",
  up: "M7 11v9H4v-9zM7 11l4-8c1.6 0 2.4 1 2.2 2.6L12.7 10h5.1c1.3 0 2.2 1.1 1.9 2.4l-1.3 6c-.2 1-1 1.6-2 1.6H7",
  down: "M17 13V4h3v9zM17 13l-4 8c-1.6 0-2.4-1-2.2-2.6l.5-4.4H6.2c-1.3 0-2.2-1.1-1.9-2.4l1.3-6c.2-1 1-1.6 2-1.6H17",
  menu: "M4 7h16M4 12h16M4 17h16",
  dials: "M5 8h8M17 8h2M15 6v4M5 16h2M11 16h8M9 14v4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4",
  moon: "M19 14.5A7.5 7.5 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5z",
  key: "M8 11a4 4 0 1 0 0 8 4 4 0 0 0 0-8M11 12l8-8M16 7l3 3",
  plus: "M12 5v14M5 12h14",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  close: "M6 6l12 12M18 6L6 18",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  help: "M9 9a3 3 0 1 1 4.2 2.8c-.8.4-1.2 1-1.2 1.9v.5M12 17.5v.2",
};

/** An element: h("p.note", {on: {click: f}}, "text", otherElement). */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name || "div");
  if (classes.length) node.className = classes.join(" ");
  assign(node, props);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element of SVG. */
export function s(name, props = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  assign(node, props);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function assign(node, props) {
  for (const [key, value] of Object.entries(props)) {
    if (key === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key === "style") for (const [name, part] of Object.entries(value)) node.style.setProperty(name, part);
    else if (key === "class") node.setAttribute("class", value);
    else if (key === "value" || key === "checked" || key === "selected" || key === "indeterminate") node[key] = value;
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
}

/** A drawn icon; it says nothing to a screen reader, the button around it does. */
export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));
}

/** A button that shows an icon and is named by its label. */
export function iconButton(name, label, click, props = {}) {
  return h("button.ghost", { type: "button", "aria-label": label, title: label, on: { click }, ...props }, icon(name));
}

/** The element of an id that the page's HTML has. */
export const $ = (id) => document.getElementById(id);

/** Lets the browser lay out and paint before going on. */
export const frame = () => new Promise((done) => requestAnimationFrame(() => done()));

/** A field with its label above and an optional hint below. */
export function field(label, input, hint = "") {
  input.id ||= `field-${(field.count = (field.count || 0) + 1)}`;
  const about = hint && h("small", { id: `${input.id}-hint` }, hint);
  if (hint) input.setAttribute("aria-describedby", about.id);
  return h("div.field", {}, h("label", { for: input.id }, label), input, about || null);
}
