/** Captions of this session, newest first, in memory only. */

import { decodingOf } from "./decodings.js";
import { el, show } from "./dom.js";

const MOST = 40; // pictures stay in memory as long as they stand here

export function createHistory(section, list, onSelect) {
  let runs = [];

  function entry(run) {
    return el("li", {}, el("button", { type: "button", class: "entry", on: { click: () => onSelect(run) } },
      el("img", { src: run.picture.url, alt: "", loading: "lazy" }),
      el("span", {}, run.caption.caption, el("span", { class: "facts", text: run.start?.decoding?.kind ? decodingOf(run.start.decoding.kind).label : "" }))));
  }

  function forget(run) {
    if (!runs.some((other) => other.picture === run.picture)) URL.revokeObjectURL(run.picture.url);
  }

  return {
    add(run) {
      const dropped = runs.slice(MOST - 1);
      runs = [run, ...runs.slice(0, MOST - 1)];
      dropped.forEach(forget);
      list.prepend(entry(run));
      while (list.children.length > MOST) list.lastElementChild.remove();
      show(section);
    },
    mark(run) {
      [...list.querySelectorAll(".entry")].forEach((button, i) => button.setAttribute("aria-current", String(runs[i] === run)));
    },
  };
}
