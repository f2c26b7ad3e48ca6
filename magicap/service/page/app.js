/** The page: pictures come in, captions come out, settings and history in between. */

import { getPresets, setToken, streamCaption } from "./api.js";
import { byId, el, show } from "./dom.js";
import { createPictureView } from "./heat.js";
import { createHistory } from "./history.js";
import { copy, download } from "./outcome.js";
import { createPanel } from "./panel.js";
import { listen, pictureAt, PictureError, pictureFrom } from "./picture.js";
import { createSettings } from "./settings.js";
import { createSupervised } from "./supervised.js";

const EXAMPLES = [
  ["astronaut", "An astronaut"], ["cat", "A cat"], ["coffee", "A cup of coffee"], ["hopper", "A portrait"], ["rocket", "A rocket"],
];
const PATIENCE = 1500; // ms until "sending" becomes "waiting for its turn"

const view = createPictureView(byId("stage"));
const panel = createPanel(view);
const supervised = createSupervised();
const settings = createSettings(byId("settings-form"), byId("settings-summary"), () => { if (picture) search(); });
const history = createHistory(byId("history-section"), byId("history"), restore);

let picture = null;
let run = null; // the caption that is shown or being written
let controller = null; // of the stream in progress
let timer = 0; // of the patience or the retry
let opening = null; // the newest picture that is being read
let retrying = false; // whether the timer is that of a retry
let presetsKnown = false;

function stop() {
  clearTimeout(timer);
  controller?.abort();
  controller = null;
  retrying = false;
}

function cancel() {
  if (run.caption) return finished(); // the caption is there, its alignment is not
  stop();
  return panel.problem("Cancelled.");
}

async function loadPresets() {
  const presets = await getPresets();
  presetsKnown = true;
  settings.load(presets);
  supervised.use(settings.supervised());
}

function handle(event) {
  const { name, data } = event;
  if (name === "start") run.start = data;
  if (name === "token") {
    run.tokens.push(data);
    panel.token(data);
  }
  if (name === "hypotheses") {
    run.frames.push(data);
    panel.beam(data);
  }
  if (name === "caption") run.caption = data;
  if (name === "alignment") run.alignment = data;
  if (name === "caption" || name === "alignment") panel.finish(run);
  if (name === "caption") panel.announce(run);
  if (name === "start") panel.busy("Searching…");
}

async function stream(signal) {
  const fields = { ...run.fields, alignment: "true" };
  const answered = () => {
    clearTimeout(timer);
    panel.busy("Waiting for its turn…");
  };
  for await (const event of streamCaption(run.picture, fields, signal, answered)) {
    if (signal.aborted) return;
    handle(event);
  }
  if (!run.caption) throw new PictureError("The answer ended without a caption.");
}

async function search({ mayRetry = true } = {}) {
  stop();
  const mine = new AbortController();
  controller = mine;
  run = { picture, fields: settings.fields(), start: null, tokens: [], frames: [], caption: null, alignment: null };
  panel.begin(settings.kind());
  panel.busy("Sending the picture…");
  supervised.prepare(picture);
  timer = setTimeout(() => panel.busy("Waiting for its turn…"), PATIENCE);
  try {
    if (!presetsKnown) await loadPresets();
    await stream(mine.signal);
    if (mine.signal.aborted) return;
    finished();
  } catch (error) {
    if (!mine.signal.aborted && error.name !== "AbortError") failed(error, mayRetry);
  }
}

function finished() {
  stop();
  if (run.start) settings.learn(run.start.preset, run.start.decoding, run.fields);
  if (run.caption.caption) {
    history.add(run);
    history.mark(run);
  }
  supervised.start(picture);
}

function failed(error, mayRetry) {
  stop();
  if (run.caption) return finished(); // only the alignment is missing
  if (error.status === 401) return panel.problem("This service asks for an access token.", { needsToken: true });
  if (error.status === 429 && mayRetry) return retryLater(error.message, Math.ceil(error.retryAfter ?? 5));
  return panel.problem(error.message);
}

function retryLater(message, seconds) {
  panel.problem(`${message} Tries again in ${seconds} s.`);
  retrying = true;
  timer = setTimeout(() => search({ mayRetry: false }), 1000 * seconds);
}

async function open(makePicture) {
  stop();
  const mine = opening = Symbol("picture");
  let next;
  try {
    next = await makePicture();
  } catch (error) {
    return panel.problem(error instanceof PictureError ? error.message : "This file could not be read.", { canRetry: false, outcome: Boolean(run?.caption) });
  }
  if (mine !== opening) return; // another one came while this was made smaller
  picture = next;
  byId("empty").hidden = true;
  view.show(picture);
  search();
}

function restore(old) {
  stop();
  ({ picture } = old);
  run = old;
  view.show(picture);
  panel.restore(run);
  panel.announce(run);
  history.mark(run);
  supervised.prepare(picture);
  supervised.start(picture);
  byId("caption-heading").focus();
}

function wireFile(button, input) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // the same file may be chosen again
    if (file) open(() => pictureFrom(file));
  });
}

function wireExamples() {
  byId("examples").append(...EXAMPLES.map(([name, label]) => {
    const url = `page/examples/${name}.jpg`;
    const button = el("button", { type: "button", class: "thumb", "aria-label": `Example: ${label}`, title: label, on: { click: () => open(() => pictureAt(url, `${name}.jpg`)) } });
    button.append(el("img", { src: url, alt: "" }));
    return el("li", {}, button);
  }));
}

function wireToken() {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(byId("token").value.trim());
    byId("token").value = "";
    again();
  });
}

async function again() {
  if (picture) return search();
  return start();
}

/** Without presets the page still takes pictures: the service's defaults apply. */
async function start() {
  panel.empty();
  try {
    await loadPresets();
  } catch (error) {
    panel.problem(error.status === 401 ? "This service asks for an access token." : error.message, { needsToken: error.status === 401 });
  }
}

function wireConnection() {
  const mark = () => show(byId("offline"), !navigator.onLine);
  window.addEventListener("online", mark);
  window.addEventListener("offline", mark);
  mark();
}

function escape(event) {
  if (event.key !== "Escape") return;
  if (controller || retrying) cancel();
  else if (!panel.unpin()) supervised.unpin();
}

wireFile("choose", "file");
wireFile("camera", "photo");
wireExamples();
wireToken();
wireConnection();
listen((file) => open(() => pictureFrom(file)));
byId("settings").open = window.matchMedia("(min-width: 60rem)").matches;
byId("cancel").addEventListener("click", cancel);
byId("again").addEventListener("click", again);
byId("copy").addEventListener("click", ({ target }) => copy(target, run.caption.caption));
byId("download").addEventListener("click", () => download(run));
document.addEventListener("keydown", escape);
start();
