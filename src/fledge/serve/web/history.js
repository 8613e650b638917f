// Conversations in the browser's own database (IndexedDB): they survive a reload and never leave the machine by themselves.

let opened = null;

function database() {
  opened ||= new Promise((done, failed) => {
    const request = indexedDB.open("fledge", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
  return opened;
}

async function ask(mode, act) {
  const store = (await database()).transaction("conversations", mode).objectStore("conversations");
  const request = act(store);
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

export const save = (conversation) => ask("readwrite", (store) => store.put(conversation));
export const load = (id) => ask("readonly", (store) => store.get(id));
export const remove = (id) => ask("readwrite", (store) => store.delete(id));

/** All conversations, the latest first. */
export async function all() {
  return (await ask("readonly", (store) => store.getAll())).sort((a, b) => b.updated - a.updated);
}
