/** The settings form; it remembers only what was changed, because presets have defaults of their own. */

import { CONTROLS, DECODINGS, decodingOf } from "./decodings.js";
import { byId, el, sentence, show } from "./dom.js";

const WAIT = 300; // ms without another change

function hintOf(name, text) {
  return el("p", { class: "hint", id: `hint-${name}`, text });
}

function wordsOf(text) {
  return text.split(",").map((word) => word.trim()).filter(Boolean);
}

function rangeControl(name, spec, value, onChange) {
  const shown = el("span", { class: "value", text: String(value), "aria-hidden": "true" });
  const input = el("input", {
    type: "range", id: `set-${name}`, min: spec.min, max: spec.max, step: spec.step, "aria-describedby": `hint-${name}`,
    on: { input: () => { shown.textContent = input.value; onChange(input.valueAsNumber); } },
  });
  input.value = String(value);
  return [el("div", { class: "label" }, el("label", { for: input.id, text: spec.label }), shown), input];
}

function numberControl(name, spec, value, onChange) {
  const input = el("input", {
    type: "number", id: `set-${name}`, min: spec.min, max: spec.max, "aria-describedby": `hint-${name}`, inputmode: "numeric",
    placeholder: "no limit", on: { input: () => { if (input.validity.valid) onChange(input.value === "" ? null : input.valueAsNumber); } },
  });
  input.value = value ?? "";
  return [el("label", { for: input.id, text: spec.label }), input];
}

/** On `change`, not `input`: half a word would be asked of the search otherwise. */
function wordsControl(name, spec, value, onChange) {
  const input = el("input", {
    type: "text", id: `set-${name}`, "aria-describedby": `hint-${name}`, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    on: { change: () => { const words = wordsOf(input.value); onChange(words.length ? words : null); } },
  });
  input.value = (value ?? []).join(", ");
  return [el("label", { for: input.id, text: spec.label }), input];
}

function checkControl(name, spec, value, onChange) {
  const input = el("input", {
    type: "checkbox", id: `set-${name}`, "aria-describedby": `hint-${name}`, on: { change: () => onChange(input.checked) },
  });
  input.checked = value;
  return [el("div", { class: "tick" }, input, el("label", { for: input.id, text: spec.label }))];
}

const MAKERS = { check: checkControl, range: rangeControl, number: numberControl, words: wordsControl };

function selectControl(id, label, options, value, hint, onChange) {
  const select = el("select", { id, "aria-describedby": `hint-${id}`, on: { change: () => onChange(select.value) } });
  select.append(...options.map(([key, text]) => el("option", { value: key, text, selected: key === value })));
  return el("div", { class: "control" }, el("label", { for: id, text: label }), select, hintOf(id, hint));
}

function originOf(preset) {
  const parts = [preset.origin && sentence(preset.origin), preset.licence && `Licence: ${preset.licence}`, preset.loaded === false && "Loads at its first caption."];
  return parts.filter(Boolean).join(" · ");
}

export function createSettings(form, summary, onChange) {
  let presets = [];
  let presetName = null; // null: the service's default
  let kind = null; // null: the preset's own search
  let changed = {};
  let timer = 0;
  const controls = el("div", { class: "controls" });
  const reset = el("button", { type: "button", text: "Reset", on: { click: () => { presetName = kind = null; changed = {}; render(); settle(0); } } });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(controls, el("div", { class: "actions" }, reset));

  const usable = () => {
    const zeroShot = presets.filter((one) => one.kind === "zero-shot");
    return zeroShot.length ? zeroShot : presets;
  };
  const preset = () => usable().find((one) => one.name === presetName) ?? usable().find((one) => one.default) ?? usable()[0] ?? null;
  const currentKind = () => kind ?? preset()?.decoding?.kind ?? "beam-magic";

  function settle(wait = WAIT) {
    clearTimeout(timer);
    reset.disabled = presetName === null && kind === null && Object.keys(changed).length === 0;
    timer = setTimeout(onChange, wait);
  }

  function defaultOf(name) {
    const own = preset()?.decoding ?? {};
    if (name === "soft_prompt") return own.soft_prompt ?? false; // whatever the search: the preset's model has one, or not
    const value = own.kind === currentKind() ? own[name] : undefined;
    return value ?? decodingOf(currentKind()).defaults[name] ?? null;
  }

  function set(name, value) {
    const { [name]: _, ...others } = changed;
    const same = value === null || JSON.stringify(value) === JSON.stringify(defaultOf(name));
    changed = same ? others : { ...changed, [name]: value };
    settle();
  }

  function control(name) {
    const spec = CONTROLS[name];
    const value = changed[name] ?? defaultOf(name);
    return el("div", { class: `control ${spec.type}` }, ...MAKERS[spec.type](name, spec, value, (next) => set(name, next)), hintOf(name, spec.hint));
  }

  function presetControl() {
    const options = usable().map((one) => [one.name, one.name]);
    return selectControl("preset", "Captioner (preset)", options, preset().name, originOf(preset()), (name) => {
      presetName = name === (usable().find((one) => one.default) ?? usable()[0]).name ? null : name;
      if (kind && !preset().decodings.includes(kind)) kind = null;
      render();
      settle();
    });
  }

  function searchControl() {
    const kinds = preset().decodings ?? [];
    const known = Object.keys(DECODINGS).filter((one) => kinds.includes(one));
    const options = [...known, ...kinds.filter((one) => !known.includes(one))].map((one) => [one, decodingOf(one).label]);
    return selectControl("search", "Search", options, currentKind(), decodingOf(currentKind()).hint, (next) => {
      kind = next === preset().decoding?.kind ? null : next;
      render();
      settle();
    });
  }

  /** Draws the form anew; the focus stays where it was. */
  function render() {
    show(form, presets.length > 0);
    if (!presets.length) return;
    const focused = form.contains(document.activeElement) ? document.activeElement.id : "";
    const choosable = preset().decodings?.length > 0;
    const parts = choosable ? decodingOf(currentKind()).controls.map(control) : [];
    controls.replaceChildren(...(choosable ? [searchControl()] : []), presetControl(), ...parts);
    if (focused) byId(focused)?.focus();
    summary.textContent = decodingOf(currentKind()).label;
    reset.disabled = presetName === null && kind === null && Object.keys(changed).length === 0;
  }

  return {
    load(list) {
      presets = list;
      render();
    },
    kind: currentKind,
    /** The own search of a preset that was not loaded before its first caption. */
    learn(name, decoding, fields) {
      const found = presets.find((one) => one.name === name);
      if (!found || (found.decoding && found.loaded)) return;
      found.loaded = true;
      if (Object.keys(fields).every((field) => field === "preset")) found.decoding ??= decoding;
      render();
    },
    supervised: () => presets.find((one) => one.kind === "supervised") ?? null,
    /** What to send: changed settings that the search has. */
    fields() {
      const { controls: names } = decodingOf(currentKind());
      const mine = names.filter((name) => name in changed).map((name) => [name, changed[name]]);
      if (kind && names.includes("soft_prompt") && defaultOf("soft_prompt")) mine.unshift(["soft_prompt", true]);
      const base = [["preset", presetName], ["decoding", kind]].filter(([, value]) => value !== null);
      return Object.fromEntries([...base, ...mine]);
    },
  };
}
