// Builds elements. Text is always inserted as text, never as markup.

const CUT_FROM = 12;

export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Writes a text only if it has changed, so that screen readers and selections are not disturbed.
export function write(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// Writes a text that the page may cut; the tooltip then shows the whole text.
export function writeCut(node, value) {
  write(node, value);
  node.title = value.length > CUT_FROM ? value : "";
}

// Disables a button while `work` runs, and afterwards restores the focus, which disabling takes away.
export async function whileDisabled(button, work) {
  button.disabled = true;
  try {
    return await work();
  } finally {
    button.disabled = false;
    if (document.activeElement === document.body) button.focus();
  }
}

export function table(columns, rows) {
  const head = columns.map(([label, isNumber]) => element("th", { scope: "col", class: isNumber && "number" }, label));
  return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
}

// Shows a table of texts, or `nothing` if there are no rows. Only changed texts are written, so that selections stay.
export function showTable(place, columns, rows, nothing) {
  const isTable = rows.length > 0;
  const state = `${isTable} ${document.documentElement.lang}`;
  if (place.dataset.state !== state) {
    place.dataset.state = state;
    place.replaceChildren(isTable ? table(columns, []) : element("p", { class: "none" }, nothing));
  }
  if (!isTable) return;
  const body = place.querySelector("tbody");
  while (body.children.length > rows.length) body.lastChild.remove();
  while (body.children.length < rows.length) body.append(row(...columns.map(([, isNumber]) => (isNumber ? number("") : ""))));
  rows.forEach((texts, index) => texts.forEach((value, column) => {
    writeCut(body.children[index].children[column], value);
  }));
}

export function row(...cells) {
  return element("tr", {}, cells.map((cell) => (cell instanceof Node ? cell : element("td", {}, cell))));
}

export function number(value) {
  return element("td", { class: "number" }, value);
}

// Makes the rows of a table those of `items`, by their ids: `newRow` makes a row, and `writeRow` writes its texts. A known row
// stays the same element, so that its focus stays.
export function keyedRows(body, items, newRow, writeRow) {
  const rows = new Map([...body.children].map((drawn) => [drawn.dataset.id, drawn]));
  // Removes old rows first, so that no other row must be moved: a moved row loses its focus.
  const known = new Set(items.map((item) => item.id));
  rows.forEach((drawn, id) => known.has(id) || drawn.remove());
  items.forEach((item, index) => {
    const drawn = rows.get(item.id) ?? newRow(item);
    drawn.dataset.id = item.id;
    if (body.children[index] !== drawn) body.insertBefore(drawn, body.children[index] ?? null);
    writeRow(drawn, item);
  });
}
