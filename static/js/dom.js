// Builds elements; text is always text, never markup.

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

// Writes a text only where it is another one, so that readers and selections are left in peace.
export function write(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function table(columns, rows) {
  const head = columns.map(([label, isNumber]) => element("th", { scope: "col", class: isNumber && "number" }, label));
  return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
}

// Texts that may be cut are whole where the pointer rests.
export function row(...cells) {
  return element("tr", {}, cells.map((cell) => (cell instanceof Node ? cell : element("td", { title: cell.length > 12 && cell }, cell))));
}

export function number(value) {
  return element("td", { class: "number" }, value);
}
