/** A caption whose words show their maps over a picture. */

import { el, roving } from "./dom.js";
import { isWhole, place } from "./heat.js";

/** A word without the punctuation behind it, if more than punctuation is left. */
function bareOf(word) {
  return word.trim().replace(/(?<=.)[.,;:!?]+$/, "");
}

/** Punctuation stays with the word before it, also at the end of a line. */
function withTails(pieces) {
  const result = [];
  for (const piece of pieces) {
    const last = result.at(-1);
    const tail = piece.word === null && last?.word !== null ? piece.text.match(/^\S*/)[0] : "";
    if (tail && last) last.tail = tail;
    const text = piece.text.slice(last && tail ? tail.length : 0);
    if (text) result.push({ text, word: piece.word, tail: "" });
  }
  return result;
}

/** Cuts a caption into `{text, word, tail}`: `word` is an index into `words`, or null between them. */
export function cut(caption, words) {
  const pieces = [];
  const lower = caption.toLowerCase();
  let end = 0;
  words.forEach((word, index) => {
    const bare = bareOf(word).toLowerCase();
    const at = bare ? lower.indexOf(bare, end) : -1;
    if (at < 0) return;
    if (at > end) pieces.push({ text: caption.slice(end, at), word: null });
    end = at + bare.length;
    pieces.push({ text: caption.slice(at, end), word: index });
  });
  if (end < caption.length) pieces.push({ text: caption.slice(end), word: null });
  const last = words.length - 1;
  if (words[last] === "(end)") pieces.push({ text: " ", word: null }, { text: "(end)", word: last });
  return withTails(pieces);
}

export function createWords(root, view, hint, describe = (word, where) => `“${word}”: ${where} of the picture`) {
  let pinned = null;
  let shown = null; // {words, maps, seen, ...}
  roving(root, ".word");

  function light(index) {
    for (const button of root.querySelectorAll(".word")) {
      button.classList.toggle("lit", Number(button.dataset.word) === index);
      button.setAttribute("aria-pressed", String(Number(button.dataset.word) === pinned));
    }
    if (index === null) {
      view.clear();
      hint.textContent = shown ? shown.invitation : "";
      return;
    }
    view.heat(shown.maps[index], shown.seen);
    const where = place(shown.maps[index], shown.seen);
    const part = isWhole(shown.seen) ? "" : ". Dashed: what the captioner saw.";
    hint.textContent = describe(bareOf(shown.words[index]), where, shown, index) + part;
  }

  function pin(index) {
    pinned = pinned === index ? null : index;
    light(pinned);
  }

  function button(text, index, first) {
    const where = place(shown.maps[index], shown.seen);
    return el("button", {
      type: "button", class: text === "(end)" ? "word end" : "word", "data-word": index, tabindex: first ? 0 : -1, text,
      "aria-label": `${text}, ${where} of the picture`, "aria-pressed": "false",
      on: {
        focus: () => light(index),
        blur: () => light(pinned),
        pointerenter: (event) => { if (event.pointerType === "mouse") light(index); },
        pointerleave: (event) => { if (event.pointerType === "mouse") light(pinned); },
        click: () => pin(index),
      },
    });
  }

  function render(caption, maps) {
    pinned = null;
    shown = maps;
    const group = el("p", { role: "group", "aria-label": "Words of the caption, arrow keys move" });
    let first = true;
    for (const { text, word, tail } of cut(caption, maps.words)) {
      if (word === null) group.append(text);
      else group.append(el("span", { class: "together" }, button(text, word, first), tail));
      first = first && word === null;
    }
    root.replaceChildren(group);
    light(null);
  }

  return {
    render,
    plain(text, className = "") {
      pinned = shown = null;
      view.clear();
      hint.textContent = "";
      root.replaceChildren(el("p", { class: className, text }));
    },
    unpin() {
      if (pinned === null) return false;
      pinned = null;
      light(null);
      return true;
    },
  };
}
