// Making elements. Text is only ever set as text: nothing in this page parses a string as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG_SPACE = "http://www.w3.org/2000/svg";

/** Set attributes (never style, which the page's policy forbids) and listeners, and add children as text or nodes. */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG_SPACE, tag), attributes, children);

let named = 0;

/** An input or select under its name. */
function labelled(name, control, wide) {
  named += 1;
  control.id = `control-${named}`;
  return html("div", { class: wide ? "control grow" : "control" }, html("label", { for: control.id }, name), control);
}

/** A drop-down list of [value, text] pairs under its name. */
function choice(name, options, onchange) {
  const select = html("select", { onchange: () => onchange(select.value) }, ...options.map(([value, said]) => html("option", { value }, said)));
  return { select, whole: labelled(name, select) };
}

/** A table of plain texts, first row the heading. */
function plainTable(rows, label) {
  const [head, ...body] = rows;
  const table = html("table", {},
    html("thead", {}, html("tr", {}, ...head.map((cell) => html("th", { scope: "col" }, cell)))),
    html("tbody", {}, ...body.map((row) => html("tr", {}, ...row.map((cell) => html("td", {}, cell))))));
  return html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}
