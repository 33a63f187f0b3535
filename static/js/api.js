// Sends requests to Leaseway. An error answer is thrown as a `Problem` with the field that is wrong.

import { text } from "./text.js";

export class Problem extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

export async function ask(path, method = "GET", body = undefined) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(text("noAnswer"), null);
  }
  const read = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(read?.error?.message ?? `HTTP ${answer.status}`, read?.error?.param ?? null);
  return read;
}
