/** The supervised captioner beside: its caption, and its attention at each word. */

import { explain } from "./api.js";
import { byId, show } from "./dom.js";
import { createPictureView } from "./heat.js";
import { createWords } from "./words.js";

const INVITATION = "Hover, focus or tap a word to see its attention.";

function describe(word, where, shown, index) {
  const gate = shown.gate?.[index];
  const share = Number.isFinite(gate) ? `, gate ${gate.toFixed(2)}` : "";
  return `“${word}” looked most at: ${where}${share}`;
}

export function createSupervised() {
  const root = byId("supervised");
  const status = byId("supervised-status");
  const again = byId("supervised-again");
  const view = createPictureView(byId("supervised-stage"));
  const words = createWords(byId("supervised-caption"), view, byId("supervised-hint"), describe);
  let preset = null;
  let picture = null;
  let controller = null;
  root.addEventListener("toggle", load);
  again.addEventListener("click", load);

  function render({ caption, attention }) {
    if (attention?.maps?.length) words.render(caption.caption, { ...attention, invitation: INVITATION });
    else words.plain(caption.caption);
    status.textContent = "";
  }

  async function load() {
    if (!preset || !picture || !root.open || controller) return;
    show(again, false);
    if (picture.supervised?.preset === preset.name) return render(picture.supervised.answer);
    await ask(picture);
  }

  async function ask(asked) {
    const mine = new AbortController();
    controller = mine;
    words.plain("Waiting for the supervised captioner…", "placeholder");
    status.textContent = "";
    try {
      const answer = await explain(asked, { preset: preset.name }, mine.signal);
      asked.supervised = { preset: preset.name, answer };
      if (asked === picture) render(answer);
    } catch (error) {
      if (error.name !== "AbortError") fail(error);
    } finally {
      if (controller === mine) controller = null;
    }
  }

  function fail(error) {
    words.plain("");
    status.textContent = `No supervised caption: ${error.message}`;
    show(again);
  }

  return {
    use(found) {
      preset = found;
    },
    /** A new picture: nothing is asked until its main caption is there. */
    prepare(next) {
      if (picture !== next) {
        controller?.abort();
        controller = null;
        words.plain("Follows the caption above.", "placeholder");
        status.textContent = "";
        show(again, false);
      }
      picture = null;
      view.show(next);
    },
    start(next) {
      picture = next;
      show(root, Boolean(preset));
      load();
    },
    unpin: () => words.unpin(),
  };
}
