/** A new element; `on` holds listeners, `text` its text, everything else is an attribute. */
export function el(tag, { on = {}, text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

export function show(node, visible = true) {
  node.hidden = !visible;
}

/** Messages of programs often begin with a small letter. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A number with a true minus and no "-0.00". */
export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text.replace("-", "−");
}

const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function target(key, index, count) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  return key in MOVES ? Math.min(Math.max(index + MOVES[key], 0), count - 1) : null;
}

/** One tab stop for all items of a container; arrow keys, Home and End move the focus among them. */
export function roving(container, selector) {
  const items = () => [...container.querySelectorAll(selector)];
  container.addEventListener("keydown", (event) => {
    const all = items();
    const next = target(event.key, all.indexOf(event.target), all.length);
    if (next === null || !all.includes(event.target)) return;
    event.preventDefault();
    all[next].focus();
  });
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) for (const other of items()) other.tabIndex = other === item ? 0 : -1;
  });
}

export const calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
