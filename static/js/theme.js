// The theme, light or dark: the system's preference until the user switches.

import { keep, recall } from "./memory.js";

const KEY = "leaseway-theme";
const THEMES = ["auto", "light", "dark"];

export function theme() {
  const kept = recall(KEY);
  return THEMES.includes(kept) ? kept : "auto";
}

export function nextTheme() {
  keep(KEY, THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  showTheme();
}

export function showTheme() {
  const chosen = theme();
  const isDark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}
