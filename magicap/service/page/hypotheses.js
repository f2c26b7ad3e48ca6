/** Beam magic search: the beam while it settles, then the whole captions that competed. */

import { legend, scaleOf, stackedBar } from "./bars.js";
import { calm, el, number, show } from "./dom.js";

const PACE = 260; // ms a frame of the beam is shown at least, so that moves end before the next

const UTILITY = { key: "model", name: "expected utility" };
const PICTURE = { key: "image", name: "added by the picture" };
const SOURCES = { beam: "beam", memory: "memory" };

/** For each hypothesis the row of the last frame that it continues, or null. */
function parents(hypotheses, rows) {
  const free = new Set(rows);
  return hypotheses.map(({ text }) => {
    const fits = [...free].filter((row) => text.startsWith(row.dataset.text));
    const parent = fits.sort((a, b) => b.dataset.text.length - a.dataset.text.length)[0] ?? null;
    free.delete(parent);
    return parent;
  });
}

function beamRow() {
  return el("li", { class: "hypothesis" }, el("span", { class: "text" }), el("span", { class: "tag" }), el("span", { class: "score" }));
}

function fill(row, { text, score, finished }) {
  const [words, tag, value] = row.children;
  row.dataset.text = text;
  words.textContent = text;
  tag.textContent = finished ? "ended" : "";
  value.textContent = number(score, 1);
}

/** Where a row is seen, also in the middle of a move. */
const topOf = (row) => row.getBoundingClientRect().top + window.scrollY;

/** Moves rows from where they were seen to where they stand now. */
function glide(rows, tops) {
  if (calm()) return;
  for (const row of rows) {
    for (const animation of row.getAnimations()) animation.cancel();
    const way = (tops.get(row) ?? NaN) - topOf(row);
    if (Number.isNaN(way)) row.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 200 });
    else if (way) {
      const zIndex = way > 0 ? 1 : 0; // rows that rise pass over those that fall
      row.animate([{ transform: `translateY(${way}px)`, zIndex }, { transform: "none", zIndex }], { duration: 220, easing: "ease-out" });
    }
  }
}

function setBeam(list, hypotheses) {
  const old = [...list.children];
  const tops = new Map(old.map((row) => [row, topOf(row)]));
  const rows = parents(hypotheses, old).map((parent) => parent ?? beamRow());
  rows.forEach((row, i) => fill(row, hypotheses[i]));
  list.replaceChildren(...rows);
  glide(rows, tops);
}

function termsOf({ expected_utility: utility, score }) {
  if (utility === null || utility === undefined) return [];
  const added = score - utility;
  return [{ ...UTILITY, value: utility }, { ...PICTURE, value: Math.abs(added) < 1e-6 ? 0 : added }];
}

function facts({ cosine, log_probability: log, finished }) {
  const parts = [];
  if (Number.isFinite(cosine)) parts.push(`cosine with the picture ${number(cosine)}`);
  if (Number.isFinite(log)) parts.push(`log-probability ${number(log, 1)}`);
  if (finished === false) parts.push("cut at the token limit");
  return parts.join(" · ");
}

function wholeRow(hypothesis, scale, chosen) {
  const terms = termsOf(hypothesis);
  const text = el("span", { class: "text", text: hypothesis.caption ?? hypothesis.text });
  if (chosen) text.append(el("span", { class: "unseen", text: " (chosen)" }));
  const tag = el("span", { class: `tag from-${hypothesis.source}`, text: SOURCES[hypothesis.source] ?? hypothesis.source });
  const score = el("span", { class: "score", text: number(hypothesis.score) });
  const bar = terms.length ? stackedBar(terms, scale, hypothesis.score) : el("span");
  return el("li", { class: chosen ? "whole chosen" : "whole" }, text, tag, bar, score, el("span", { class: "facts", text: facts(hypothesis) }));
}

function createFinal() {
  const list = el("ol", { class: "wholes" });
  const key = legend([UTILITY, PICTURE, { key: "total", name: "score, their sum" }]);
  const about = el("p", { class: "faint", text: "Whole captions that competed. Expected utility: how well a caption agrees with captions of similar pictures (expected CIDEr-D). From the beam: written for this picture; from memory: a remembered sentence near the picture." });
  return {
    node: el("div", { hidden: true }, list, key, about),
    set(hypotheses) {
      const scale = scaleOf(hypotheses.map(termsOf));
      show(key, hypotheses.some((one) => termsOf(one).length > 0));
      list.replaceChildren(...hypotheses.map((one, i) => wholeRow(one, scale, i === 0)));
    },
  };
}

/** `onBest` is told the text of the best hypothesis of each frame that is shown while captions are written. */
export function createHypotheses(root, onBest) {
  let frames = [];
  let timer = 0; // of the next frame
  const list = el("ol", { class: "beam", "aria-label": "The beam, best hypothesis first" });
  const slider = el("input", { type: "range", min: 1, value: 1, id: "beam-step" });
  const label = el("label", { for: "beam-step" });
  const control = el("div", { class: "scrub", hidden: true }, label, slider);
  const fold = el("details", { class: "inner", hidden: true }, el("summary", { text: "The beam after each token" }));
  const live = el("div", {}, el("p", { class: "faint", text: "The best partial captions after each token, with their log-probabilities." }), control, list);
  const final = createFinal();
  root.append(live, final.node, fold);
  slider.addEventListener("input", () => select(slider.valueAsNumber - 1));

  function select(index) {
    const frame = frames[index];
    label.textContent = `After token ${frame.position + 1} of ${frames.at(-1).position + 1}`;
    slider.setAttribute("aria-valuetext", `${label.textContent}; best: ${frame.hypotheses[0]?.text ?? "none"}`);
    setBeam(list, frame.hypotheses);
  }

  function showNewest() {
    timer = 0;
    const { hypotheses } = frames.at(-1);
    setBeam(list, hypotheses);
    if (hypotheses.length) onBest(hypotheses[0].text);
  }

  function pause() {
    clearTimeout(timer);
    timer = 0;
  }

  /** While captions are written the beam stands in front, then behind a fold. */
  function settle(settled) {
    (settled ? fold : root).append(live);
    if (!settled) root.prepend(live);
    show(control, settled);
    show(fold, settled && frames.length > 0);
    show(final.node, settled);
  }

  return {
    reset() {
      pause();
      frames = [];
      fold.open = false;
      list.replaceChildren();
      settle(false);
    },
    add(frame) {
      frames = [...frames, frame];
      if (frames.length === 1) showNewest();
      else timer ||= setTimeout(showNewest, PACE);
    },
    pause,
    finish(all, hypotheses) {
      pause();
      frames = [...all];
      final.set(hypotheses);
      settle(true);
      if (!frames.length) return;
      slider.max = String(frames.length);
      slider.value = slider.max;
      select(frames.length - 1);
    },
  };
}
