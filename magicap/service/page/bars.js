/** Scores as stacked bars: positive terms to the right of zero, negative ones to the left. */

import { el, number } from "./dom.js";

/** One scale for many bars; each is a list of `{value}`. */
export function scaleOf(bars) {
  let [low, high] = [0, 0];
  for (const terms of bars) {
    low = Math.min(low, terms.reduce((sum, { value }) => sum + Math.min(value, 0), 0));
    high = Math.max(high, terms.reduce((sum, { value }) => sum + Math.max(value, 0), 0));
  }
  return { low, span: high - low || 1 };
}

export function stackedBar(terms, scale, score) {
  const label = terms.map(({ name, value }) => `${name} ${number(value)}`).join(", ");
  const bar = el("div", { class: "bar", role: "img", "aria-label": label, title: label });
  const position = (value) => `${100 * (value - scale.low) / scale.span}%`;
  let [left, right] = [0, 0];
  for (const { key, value } of terms) {
    const start = value < 0 ? left + value : right;
    const segment = el("span", { class: `segment ${key}` });
    segment.style.left = position(start);
    segment.style.width = `${100 * Math.abs(value) / scale.span}%`;
    bar.append(segment);
    if (value < 0) left += value;
    else right += value;
  }
  bar.append(mark("zero", position(0)), mark("total", position(score)));
  return bar;
}

function mark(className, left) {
  const node = el("span", { class: className });
  node.style.left = left;
  return node;
}

export function legend(entries) {
  const items = entries.map(({ key, name }) => el("li", {}, el("span", { class: `swatch ${key}`, "aria-hidden": "true" }), name));
  return el("ul", { class: "legend", "aria-label": "Legend" }, ...items);
}
