/** Confidence, copying and downloading of a finished caption. */

import { el } from "./dom.js";

const VERDICTS = [
  [0.25, "Probably wrong: this picture is unlike anything it knows."],
  [0.5, "Unsure."],
  [0.75, "Probably right."],
  [Infinity, "Very likely right."],
];

const ABOUT = "The chance that the caption agrees with what people would write of this picture. It was fitted on pictures with known captions, and holds for the settings it was fitted with.";

export function verdictOf(confidence) {
  return VERDICTS.find(([below]) => confidence < below)[1];
}

export const percent = (confidence) => `${Math.round(100 * confidence)} % likely right`;

function meter(confidence) {
  const bar = el("span", { class: "level" });
  bar.style.width = `${100 * confidence}%`;
  return el("div", {
    class: "meter", role: "meter", "aria-label": "Confidence", "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-valuenow": Math.round(100 * confidence), "aria-valuetext": `${percent(confidence)}. ${verdictOf(confidence)}`,
  }, bar);
}

export function showConfidence(root, confidence) {
  const about = el("details", { class: "about" }, el("summary", { text: "What does this mean?" }), el("p", { class: "faint", text: ABOUT }));
  if (!Number.isFinite(confidence)) {
    root.replaceChildren(el("p", { class: "verdict", text: "This search gives no confidence." }), about);
    return;
  }
  const verdict = el("p", { class: "verdict" }, el("strong", { text: percent(confidence) }), el("span", { class: "faint", text: verdictOf(confidence) }));
  root.replaceChildren(verdict, meter(confidence), about);
  root.classList.toggle("low", confidence < 0.25);
}

/** navigator.clipboard exists on secure origins only; a service in a local network may be plain HTTP. */
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("refused");
}

export async function copy(button, text) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  try {
    await toClipboard(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = String(setTimeout(() => { button.textContent = label; }, 1800));
}

export function download(run) {
  const { start, tokens, frames, caption, alignment, fields, picture } = run;
  const supervised = picture.supervised?.answer ?? null;
  const data = { picture: picture.name, settings: fields, start, tokens, hypotheses: frames, caption, alignment, supervised };
  const url = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }));
  const link = el("a", { href: url, download: `${picture.name.replace(/\.[^.]*$/, "") || "picture"}.caption.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
