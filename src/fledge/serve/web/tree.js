// A conversation is a tree: editing a message or asking again makes a branch beside the old one, nothing is lost.
// Plain objects, so that they can be stored as they are. A node: {id, parent, role, content, created, …}.

export const ROOT = "";

const fresh = () => (crypto.randomUUID ? crypto.randomUUID() : `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`);

export function newConversation(model, system, sampling) {
  const now = Date.now();
  return { id: fresh(), title: "", created: now, updated: now, model, system, sampling, nodes: {}, children: { [ROOT]: [] }, chosen: {} };
}

/** Adds a node below `parent` (ROOT for the first turn) and chooses it; returns it. */
export function add(conversation, parent, role, content, more = {}) {
  const node = { id: fresh(), parent, role, content, created: Date.now(), ...more };
  conversation.nodes[node.id] = node;
  (conversation.children[parent] ||= []).push(node.id);
  conversation.children[node.id] = [];
  conversation.chosen[parent] = node.id;
  conversation.updated = node.created;
  if (!conversation.title && role === "user") conversation.title = content.trim().split("\n")[0].slice(0, 60);
  return node;
}

/** The nodes that are shown, from the first turn to the last. */
export function path(conversation) {
  const nodes = [];
  for (let id = conversation.chosen[ROOT]; id; id = conversation.chosen[id]) nodes.push(conversation.nodes[id]);
  return nodes;
}

/** The nodes from the first turn up to and with `node`. */
export function pathTo(conversation, node) {
  const nodes = [];
  for (let each = node; each; each = conversation.nodes[each.parent]) nodes.unshift(each);
  return nodes;
}

/** Where a node stands among its alternatives: {index, ids}. */
export function siblings(conversation, node) {
  const ids = conversation.children[node.parent];
  return { index: ids.indexOf(node.id), ids };
}

/** Shows the alternative `offset` places further. */
export function turnTo(conversation, node, offset) {
  const { index, ids } = siblings(conversation, node);
  conversation.chosen[node.parent] = ids[(index + offset + ids.length) % ids.length];
}

/** Messages as the API and the training data write them, up to and with `node`. */
export function messages(conversation, node) {
  const system = conversation.system?.trim() ? [{ role: "system", content: conversation.system }] : [];
  return [...system, ...pathTo(conversation, node).map(({ role, content }) => ({ role, content }))];
}

/** One line of training data of the branch that is shown; null if it has no answer. */
export function row(conversation) {
  const nodes = path(conversation);
  const last = nodes.findLastIndex((node) => node.role === "assistant" && node.content);
  if (last < 0) return null;
  return { messages: messages(conversation, nodes[last]), title: conversation.title, model: nodes[last].model, created: new Date(conversation.created).toISOString(), ratings: nodes.filter((node) => node.rating).map(({ content, rating, correction }) => ({ content, rating, ...(correction ? { correction } : {}) })) };
}
