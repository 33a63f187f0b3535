// Reads anew what the server knows: one reading at a time, a pause after each, and another if it was asked for meanwhile.

import { ask } from "./api.js";

// How soon a reading that failed is tried again, in milliseconds.
const FAILED_AGAIN_MS = 2000;

// Returns what reads `path` anew, for as long as it is wanted. `take` gets what was read, or `null` and why it was not.
export function reader(path, pauseMs, isWanted, take) {
  let isDue = false;
  let isReading = false;
  return async () => {
    isDue = true;
    if (isReading) return;
    isReading = true;
    while (isDue && isWanted()) {
      isDue = false;
      const read = await ask(path).catch((problem) => problem);
      const failed = read instanceof Error;
      if (isWanted()) take(failed ? null : read, failed ? read.message : "");
      isDue ||= failed;
      await new Promise((resume) => setTimeout(resume, failed ? FAILED_AGAIN_MS : pauseMs));
    }
    isReading = false;
  };
}
