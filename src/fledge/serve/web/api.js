// The server's API: JSON, and answers that stream as server-sent events. A key, where one is needed, is asked for once.

let askForKey = async () => false;

/** The page says how a key is asked for; the function returns whether one was given. */
export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

export const key = () => localStorage.getItem("fledge.key") || "";

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function open(path, options, mayAsk = true) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}) };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is `fledge serve` still running?");
  }
  if (response.status === 401 && mayAsk && (await askForKey())) return open(path, options, false);
  if (!response.ok) throw new Refused(response.status, await reason(response), Number(response.headers.get("Retry-After")));
  return response;
}

async function reason(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    const detail = Array.isArray(body.detail) ? body.detail.map((part) => part.msg).join("; ") : body.detail;
    return body.error?.message || detail || text;
  } catch {
    return text || `${response.status} ${response.statusText}`;
  }
}

/** GET without a body, POST with one. */
export async function call(path, body, signal) {
  const options = body === undefined ? { signal } : { method: "POST", body: JSON.stringify(body), signal };
  const response = await open(path, options);
  return response.status === 204 ? null : response.json();
}

/** DELETE. */
export const erase = async (path) => (await open(path, { method: "DELETE" })).json();

/** Each event of a streamed answer as an object, until [DONE]; an error in mid-stream is thrown. */
export async function* stream(path, body, signal) {
  const response = await open(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.code || 500, chunk.error.message || "the answer broke off");
      yield chunk;
    }
  }
}

/** The names of the models that are served. */
export async function models() {
  return (await call("/v1/models")).data.map((model) => model.id);
}
