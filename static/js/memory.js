// Keeps settings in the browser between visits, if the browser allows it.

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
    // `here` keeps the value until the page is closed.
  }
}
