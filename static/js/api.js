// Sends requests to Leaseway. An error answer is thrown as a `Problem` with its status and the field that is wrong.

import { setSession } from "./store.js";
import { text } from "./text.js";

export class Problem extends Error {
  constructor(message, field, status) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

const UNAUTHORIZED = 401;

// Sends a request. An answer of 401 ends the session, so that the page asks for a key.
export async function ask(path, method = "GET", body = undefined) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(text("noAnswer"), null, null);
  }
  if (answer.status === UNAUTHORIZED) setSession(null);
  const read = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(read?.error?.message ?? `HTTP ${answer.status}`, read?.error?.param ?? null, answer.status);
  return read;
}
