// What the browser keeps between visits, if it is allowed to.

const here = new Map();

export function recall(key) {
  try {
    return localStorage.getItem(key) ?? here.get(key);
  } catch {
    return here.get(key);
  }
}

export function keep(key, value) {
  here.set(key, value);
  try {
    localStorage.setItem(key, value);
  } catch {
    // Remembered until the page is closed.
  }
}
