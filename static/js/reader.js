// Reads a path of the server again and again: one reading at a time, then a pause, then another if it was requested.

import { ask } from "./api.js";

// The pause after a failed reading, in milliseconds.
const FAILED_AGAIN_MS = 2000;

// Returns a function that reads `path` again while `isWanted`. `take` gets the result, or `null` and an error message.
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
