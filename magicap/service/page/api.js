/** Requests to the service: relative addresses, so that a reverse proxy may put it under any path. */

const TOKEN_KEY = "magicap-token";
let memoryToken = ""; // where sessionStorage is forbidden

export class ServiceError extends Error {
  constructor(message, { status = 0, code = "unreachable", retryAfter = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter, requestId });
  }
}

export function setToken(token) {
  memoryToken = token;
  try { sessionStorage.setItem(TOKEN_KEY, token); } catch { /* memoryToken holds it */ }
}

function getToken() {
  try { return sessionStorage.getItem(TOKEN_KEY) || memoryToken; } catch { return memoryToken; }
}

function broken() {
  return new ServiceError(navigator.onLine ? "The service cannot be reached." : "You are offline.");
}

async function failure(response) {
  const retry = Number.parseFloat(response.headers.get("Retry-After"));
  const details = { status: response.status, code: "http", retryAfter: Number.isFinite(retry) ? retry : null };
  let message = `The service answered ${response.status}.`;
  try {
    const { error } = await response.json();
    details.code = error.code ?? details.code;
    details.requestId = error.request_id ?? null;
    message = error.message || message;
  } catch { /* a proxy's page, not the service's JSON */ }
  return new ServiceError(message, details);
}

async function request(path, options) {
  const token = getToken();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : broken();
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export async function getPresets() {
  return (await (await request("v1/presets", {})).json()).presets;
}

function formOf(picture, fields) {
  const form = new FormData();
  form.append("image", picture.blob, picture.name || "picture");
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) form.append(name, String(one));
  }
  return form;
}

export async function explain(picture, fields, signal) {
  const response = await request("v1/explain", { method: "POST", body: formOf(picture, fields), signal });
  return response.json();
}

/** One event of a text/event-stream, or null for a comment. */
function parseEvent(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r\n|\r|\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : null;
}

async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (buffer + value).split(/\r\n\r\n|\n\n|\r\r/);
      buffer = parts.pop();
      yield* parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Events of a caption being written: `{name, data}`; `onAnswer` is called when the service took the request. */
export async function* streamCaption(picture, fields, signal, onAnswer) {
  const response = await request("v1/captions/stream", { method: "POST", body: formOf(picture, fields), signal });
  onAnswer();
  try {
    for await (const block of blocks(response.body)) {
      const event = parseEvent(block);
      if (event?.name === "error") throw new ServiceError(event.data.message, { status: 200, code: event.data.code });
      if (event) yield event;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServiceError) throw error;
    throw new ServiceError("The connection ended before the caption was complete.");
  }
}
