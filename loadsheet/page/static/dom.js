// Elements without markup: every text from outside becomes a text node.

// What would steer a reader's eye: control characters, and those that turn the direction of text.
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\u2028\u2029]/g;

export function visible(text) {
  return String(text).replace(
    STEERING, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

export const h = (tag, attributes, ...children) =>
  build(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : visible(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : visible(child));
  }
}

// A table whose heads and cells keep their roles where narrow screens turn rows into cards.
// A column is {head, cell(row), numeric, row}: `row` marks the column that names the row.
export function table(caption, columns, rows, attributes = {}) {
  const heads = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: column.numeric && "number" },
      column.head));
  return h("table", { role: "table", class: "cards", ...attributes },
    h("caption", null, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    h("tbody", { role: "rowgroup" }, rows.map((row) => tableRow(columns, row))));
}

export function tableRow(columns, row) {
  const cells = columns.map((column) => {
    const content = column.cell(row);
    const shared = { class: column.numeric ? "number" : null, "data-head": column.head };
    if (column.row) return h("th", { scope: "row", role: "rowheader", ...shared }, content);
    return h("td", { role: "cell", ...shared }, content);
  });
  return h("tr", { role: "row" }, cells);
}

export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value && value.length !== 0);
  return h("dl", { class: "facts" }, shown.map(([name, value]) =>
    h("div", null, h("dt", null, name), h("dd", null, value))));
}

export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

export const scrolling = (label, ...children) =>
  h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, children);

export const notice = (kind, ...children) => h("p", { class: `notice ${kind}` }, children);
