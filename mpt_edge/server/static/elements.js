// Elements of the page. Text enters as text nodes alone, so that nothing in it becomes HTML.

/** Return the element of an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Make an element; attributes that are null or undefined are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an element of SVG. */
export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Make a table of a caption, column titles and rows; the first cell of a row names it. */
export function table(caption, titles, rows) {
  const heads = titles.map((title) => element("th", { scope: "col" }, title));
  const lines = rows.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((cell) => cellOf(cell))));
  return element("table", {}, element("caption", { class: "hidden" }, caption),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

function cellOf(content) {
  return content instanceof HTMLTableCellElement ? content : element("td", {}, content);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
