// Work that is not kept yet, in this browser: a closed tab, a lapsed key or a server that is away loses nothing.

const [NAME, MOST] = ["fledge.drafts", 6];

function all() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) || {};
  } catch {
    return {};
  }
}

function write(drafts) {
  try {
    localStorage.setItem(NAME, JSON.stringify(drafts));
  } catch {
    // a full or forbidden storage: the page still holds the work
  }
}

const key = (person, task) => `${person}/${task}`;

export const draftOf = (person, task) => all()[key(person, task)];

/** Keeps a draft; of the oldest ones only a few stay. */
export function keepDraft(person, task, draft) {
  const { [key(person, task)]: _, ...others } = all();
  write(Object.fromEntries([...Object.entries(others).slice(1 - MOST), [key(person, task), draft]]));
}

export function dropDraft(person, task) {
  const { [key(person, task)]: dropped, ...others } = all();
  write(others);
  return dropped;
}
