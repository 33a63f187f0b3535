// The session: whether a key is required, and what this browser may do. A session ends with its key or after 12 hours.

import { ask, Problem } from "./api.js";
import { setSession, state } from "./store.js";
import { text } from "./text.js";

const [UNAUTHORIZED, FORBIDDEN] = [401, 403];

// Asks the server for the session. Without one that may read, the session is `null`; throws if there is no answer.
export async function readSession() {
  try {
    setSession(await ask("/api/session"));
  } catch (problem) {
    if (![UNAUTHORIZED, FORBIDDEN].includes(problem.status)) throw problem;
    setSession(null);
  }
}

// Begins a session for a key. Throws a problem in words for the person who typed the key.
export async function logIn(key) {
  let scopes;
  try {
    ({ scopes } = await ask("/api/session", "POST", { key }));
  } catch (problem) {
    throw problem.status === UNAUTHORIZED ? new Problem(text("wrongKey"), null, UNAUTHORIZED) : problem;
  }
  if (allows(scopes, "read")) return;
  await ask("/api/session", "DELETE");
  throw new Problem(text("keyMayNotRead"), null, FORBIDDEN);
}

// Ends the session, and loads the page anew, so that nothing of the session stays on it.
export async function logOut() {
  await ask("/api/session", "DELETE");
  location.reload();
}

// Tells whether nobody needs a key.
export function isOpen() {
  return state.session?.keys_required === false;
}

// Tells whether this browser may do what needs `scope`.
export function may(scope) {
  return isOpen() || allows(state.session?.scopes ?? [], scope);
}

export function allows(scopes, scope) {
  return scopes.includes(scope) || scopes.includes("admin");
}
