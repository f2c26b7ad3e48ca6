/** The caption's panel: what is being done, what went wrong, the caption itself. */

import { CONTROLS, decodingOf } from "./decodings.js";
import { byId, el, number, sentence, show } from "./dom.js";
import { createHypotheses } from "./hypotheses.js";
import { percent, showConfidence, verdictOf } from "./outcome.js";
import { createSteps } from "./steps.js";
import { createWords } from "./words.js";

const INVITATION = "Hover, focus or tap a word to see where it sits in the picture.";

function metaOf({ start, caption }) {
  const { kind, ...settings } = start?.decoding ?? {};
  const shown = decodingOf(kind).controls.filter((name) => CONTROLS[name].type === "range" && Number.isFinite(settings[name]));
  const parts = [start?.preset, kind && decodingOf(kind).label, ...shown.map((name) => `${name.replaceAll("_", " ")} ${settings[name]}`)];
  if (Number.isFinite(caption?.score)) parts.push(`cosine ${number(caption.score)}`);
  return parts.filter(Boolean).join(" · ");
}

function errorText(error) {
  return typeof error === "string" ? error : error?.message ?? "the search ended without words";
}

export function createPanel(view) {
  const root = byId("caption-section");
  const caption = byId("caption");
  const steps = createSteps(byId("steps"));
  const words = createWords(caption, view, byId("hint"));
  const hypotheses = createHypotheses(byId("hypotheses"), (text) => words.plain(text, "leading"));

  function parts({ busy = null, problem = null, outcome = false }) {
    root.setAttribute("aria-busy", String(busy !== null));
    show(byId("progress"), busy !== null);
    byId("progress-text").textContent = busy ?? "";
    show(byId("problem"), problem !== null);
    byId("problem-text").textContent = problem ?? "";
    show(byId("outcome"), outcome);
  }

  function how(kind) {
    show(byId("how"), kind !== null);
    show(byId("steps"), kind === "tokens");
    show(byId("hypotheses"), kind === "hypotheses");
  }

  function empty() {
    parts({});
    how(null);
    words.plain("The caption appears here, and below it how it was chosen.", "placeholder");
  }

  /** `kind` is the search that is expected: its details have their room from the start. */
  function begin(kind) {
    steps.reset();
    hypotheses.reset();
    byId("meta").textContent = "";
    byId("announce").textContent = "";
    words.plain("…", "placeholder");
    how(kind === "beam-magic" ? "hypotheses" : "tokens");
  }

  function token(event) {
    how("tokens");
    steps.add(event);
    const before = event.token && event.text.endsWith(event.token) ? event.text.slice(0, -event.token.length) : event.text;
    const fresh = el("span", { class: "fresh", text: event.text.slice(before.length) });
    caption.replaceChildren(el("p", {}, before, fresh, ...(event.last ? [] : [el("span", { class: "caret", "aria-hidden": "true" })])));
  }

  function beam(event) {
    how("hypotheses");
    hypotheses.add(event);
  }

  function finish(run) {
    const { caption: final, alignment, tokens, frames } = run;
    parts({ outcome: Boolean(final.caption), problem: final.error ? `No caption: ${errorText(final.error)}` : null });
    byId("meta").textContent = metaOf(run);
    showConfidence(byId("confidence"), final.confidence);
    if (alignment?.maps?.length) words.render(final.caption, { ...alignment, invitation: INVITATION });
    else words.plain(final.caption);
    if (final.hypotheses?.length) {
      hypotheses.finish(frames, final.hypotheses);
      how("hypotheses");
    } else if (tokens.length) {
      steps.done();
      how("tokens");
    } else {
      how(null);
    }
  }

  function announce({ caption: final }) {
    const sure = Number.isFinite(final.confidence) ? ` ${percent(final.confidence)}. ${verdictOf(final.confidence)}` : "";
    byId("announce").textContent = `Caption: ${final.caption}${sure}`;
  }

  return {
    empty, begin, token, beam, finish, announce,
    busy: (text) => parts({ busy: text }),
    problem(text, { needsToken = false, canRetry = true, outcome = false } = {}) {
      hypotheses.pause();
      parts({ problem: sentence(text), outcome });
      show(byId("token-form"), needsToken);
      show(byId("again"), canRetry && !needsToken);
      if (needsToken) byId("token").focus();
      if (!caption.querySelector(".placeholder")) return;
      words.plain("No caption yet.", "placeholder");
      how(null);
    },
    /** A run of the history, as it was. */
    restore(run) {
      begin(run.start?.decoding?.kind);
      if (run.tokens.length) steps.showAll(run.tokens);
      finish(run);
    },
    unpin: () => words.unpin(),
  };
}
