// The live connection. A lost connection is opened again, at growing intervals, as long as the session lasts.

import { readSession } from "./session.js";
import { apply, listen, setConnection, state } from "./store.js";

const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 5000;
// The page does not see the server's pings, but an event comes every minute at least.
const SILENCE_MAX_MS = 75000;

let retryMs = RETRY_MIN_MS;
let opened = null;

// Asks for the session, because the browser does not say why a WebSocket was refused, and opens the connection. Without
// a session nothing is opened; the login form connects.
export async function connect() {
  const failed = await readSession().then(() => false, () => true);
  if (failed) return connectLater();
  if (state.session !== null) open();
}

function connectLater() {
  setConnection("reconnecting");
  setTimeout(connect, retryMs);
  retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
}

function open() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws/dashboard`);
  let isLost = false;
  let silence = setTimeout(lose, SILENCE_MAX_MS);
  opened?.abandon();
  opened = { abandon };
  socket.addEventListener("message", ({ data }) => {
    if (isLost) return;
    clearTimeout(silence);
    silence = setTimeout(lose, SILENCE_MAX_MS);
    const event = JSON.parse(data);
    if (event.type === "Snapshot") {
      retryMs = RETRY_MIN_MS;
      setConnection("live");
    }
    apply(event);
  });
  socket.addEventListener("close", lose);

  // Runs once per socket: a silent socket may report its end long after another socket has replaced it.
  function lose() {
    if (isLost) return;
    abandon();
    connectLater();
  }

  function abandon() {
    isLost = true;
    clearTimeout(silence);
    socket.close();
  }
}

listen(() => {
  if (state.session !== null || opened === null) return;
  opened.abandon();
  opened = null;
});
