/** The steps of a search that writes token by token, and the candidates of the selected one. */

import { legend, scaleOf, stackedBar } from "./bars.js";
import { el, number, roving } from "./dom.js";

const TERMS = [
  { key: "model", field: "model_confidence", name: "model confidence" },
  { key: "image", field: "image_score", name: "image score" },
  { key: "penalty", field: "degeneration_penalty", name: "degeneration penalty" },
];

const termsOf = (candidate) => TERMS.map(({ key, field, name }) => ({ key, name, value: candidate[field] ?? 0 }));
const candidatesOf = (token) => (token.candidates?.length ? token.candidates : [token]);

function label({ token, last }) {
  return last ? "(end)" : token.trim() || "…";
}

function row(candidate, scale, chosen) {
  return el("tr", { class: chosen ? "chosen" : "" },
    el("th", { scope: "row", text: label(candidate) }, ...(chosen ? [el("span", { class: "unseen", text: " (chosen)" })] : [])),
    el("td", {}, stackedBar(termsOf(candidate), scale, candidate.score)),
    el("td", { class: "score", text: number(candidate.score) }));
}

function table() {
  const heads = ["Token", "Shares", "Score"].map((text) => el("th", { scope: "col", text }));
  const body = el("tbody");
  return { body, node: el("table", { class: "candidates" }, el("thead", {}, el("tr", {}, ...heads)), body) };
}

export function createSteps(root) {
  let tokens = [];
  let selected = 0;
  let following = true; // the newest step is shown until the reader selects one
  const chips = el("div", { class: "chips", role: "tablist", "aria-label": "Steps" });
  const prefix = el("p", { class: "prefix" });
  const { body, node } = table();
  const panel = el("div", { id: "step-panel", role: "tabpanel", tabindex: 0, "aria-labelledby": "step-0" }, prefix, node);
  const total = { key: "total", name: "score, their sum" };
  root.append(el("p", { class: "faint", text: "Select a step to see which tokens competed." }), chips, panel, legend([...TERMS, total]));
  roving(chips, ".chip");

  function chip(token, index) {
    const choose = () => { following = false; select(index); };
    return el("button", {
      type: "button", class: "chip", role: "tab", id: `step-${index}`, "aria-controls": "step-panel", tabindex: -1,
      text: label(token), on: { click: choose, focus: choose },
    });
  }

  function select(index) {
    selected = index;
    [...chips.children].forEach((item, i) => {
      item.setAttribute("aria-selected", String(i === index));
      item.tabIndex = i === index ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `step-${index}`);
    const before = index > 0 ? tokens[index - 1].text : "";
    prefix.replaceChildren(el("span", {}, el("span", { class: "faint", text: before ? `${before} ` : "Start: " }), el("strong", { text: label(tokens[index]) })));
    const scale = scaleOf(tokens.flatMap(candidatesOf).map(termsOf));
    body.replaceChildren(...candidatesOf(tokens[index]).map((candidate, i) => row(candidate, scale, i === 0)));
  }

  return {
    reset() {
      tokens = [];
      following = true;
      chips.replaceChildren();
      body.replaceChildren();
      prefix.replaceChildren();
    },
    add(token) {
      tokens = [...tokens, token];
      chips.append(chip(token, tokens.length - 1));
      select(following ? tokens.length - 1 : selected);
      if (following) chips.scrollLeft = chips.scrollWidth; // one line on phones
    },
    /** All at once: a caption of the history. */
    showAll(all) {
      this.reset();
      tokens = [...all];
      chips.append(...tokens.map(chip));
      if (tokens.length) select(0);
    },
    done() {
      following = false;
    },
  };
}
