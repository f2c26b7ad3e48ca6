"use strict";
// Texts from outside become text nodes only, never markup; the page's policy lets no other script run.
(() => {
  const root = document.documentElement;
  const complain = (what) => { root.dataset.error = what; };
  addEventListener("error", (event) => complain(event.message));
  document.addEventListener("securitypolicyviolation", (event) => complain(`refused: ${event.violatedDirective}`));

  const find = (selector, inside = document) => inside.querySelector(selector);
  const findAll = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // ---- The table of figures: a click on a column sorts it down, up, and as it was.
  const body = find(".figures tbody");
  const rows = [...body.rows];
  const worth = (row, column) => {
    const text = row.cells[column].dataset.value;
    return column === 0 ? text : text === undefined || text === "" ? NaN : Number(text);
  };
  const compared = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  const byColumn = (column, sign) => (a, b) => {
    const [left, right] = [worth(a, column), worth(b, column)];
    if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
    return sign * compared(left, right);
  };
  findAll(".figures thead th").forEach((head, column, heads) => {
    find("button", head).addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[head.ariaSort];
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = next;
      body.append(...(next === "none" ? rows : [...rows].sort(byColumn(column, next === "ascending" ? 1 : -1))));
    });
  });

  // ---- Signatures: copied where the browser lets us, selected where not; all open on paper.
  for (const button of findAll(".copy")) {
    const text = find("pre", button.parentElement);
    const select = () => { getSelection().selectAllChildren(text); button.textContent = "Selected"; };
    button.addEventListener("click", () => {
      if (!navigator.clipboard) return select();
      navigator.clipboard.writeText(text.textContent).then(() => { button.textContent = "Copied"; }, select);
    });
  }
  addEventListener("beforeprint", () => { for (const signature of findAll(".signature")) signature.open = true; });

  // ---- Every image with its captions.
  if (!find("#data")) return;
  const PAGE = 50;
  const data = JSON.parse(find("#data").textContent);
  const { images, references, pictures, systems, metrics, lead } = data;
  const decimals = Object.fromEntries(metrics.map(({ name, decimals }) => [name, decimals]));
  const printed = (metric, number) => (number === null || number === undefined ? "–" : number.toFixed(decimals[metric]));
  const figure = (system, metric, image) => system.figures[metric]?.[image] ?? null;
  const leads = lead ? systems.flatMap((system) => system.figures[lead] ?? []).filter((x) => x !== null) : [];
  // Bars are full at what 99 of 100 captions stay below.
  const full = leads.sort((a, b) => a - b)[Math.floor(0.99 * (leads.length - 1))] || 1;
  const haystacks = [];
  const haystack = (image) => (haystacks[image] ??=
    [images[image], ...references[image], ...systems.map(({ captions }) => captions[image])].join("\n").toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });

  // The state of the view is the address's fragment, so that a view can be sent to others.
  const sorts = ["disagree", "name", "given", ...systems.map(({ name }) => `system:${name}`)];
  const standard = lead && systems.length > 1 ? "disagree" : "given";
  const usual = (sort) => (sort === "name" || sort === "given" ? "asc" : "desc");
  const read = () => {
    const view = new URLSearchParams(location.hash.slice(1));
    const sort = sorts.includes(view.get("sort")) ? view.get("sort") : standard;
    const order = ["asc", "desc"].includes(view.get("order")) ? view.get("order") : usual(sort);
    return { sort, order, page: Math.max(1, parseInt(view.get("page"), 10) || 1), find: view.get("find") ?? "", hide: view.getAll("hide") };
  };
  const written = ({ sort, order, page, find, hide }) => {
    const fragment = new URLSearchParams({ sort, order });
    if (page > 1) fragment.set("page", page);
    if (find) fragment.set("find", find);
    for (const name of hide) fragment.append("hide", name);
    return `#${fragment}`;
  };
  let state = read();
  const go = (changes, quietly = false) => {
    state = { ...state, page: 1, ...changes };
    if (quietly) history.replaceState(null, "", written(state));
    else history.pushState(null, "", written(state));
    draw();
  };
  addEventListener("hashchange", () => {
    if (/^#[\w-]+$/.test(location.hash)) return; // a part of the page, not a view of the captions
    state = read();
    draw();
  });

  const spread = (visible, image) => {
    const numbers = visible.map((system) => figure(system, lead, image)).filter((x) => x !== null);
    return numbers.length > 1 ? Math.max(...numbers) - Math.min(...numbers) : null;
  };
  const chosen = (visible) => {
    const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = images.map((_, image) => image).filter((image) => words.every((word) => haystack(image).includes(word)));
    const sign = state.order === "asc" ? 1 : -1;
    if (state.sort === "given") return sign < 0 ? kept.reverse() : kept;
    if (state.sort === "name") return kept.sort((a, b) => sign * collator.compare(images[a], images[b]));
    const system = systems.find(({ name }) => state.sort === `system:${name}`);
    const keys = images.map((_, image) => (system ? figure(system, lead, image) : spread(visible, image)));
    return kept.sort((a, b) => {
      if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;
      return sign * (keys[a] - keys[b]) || a - b;
    });
  };

  const WORD = /[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{N}]+)*/gu;
  const wordsOf = (texts) => new Set(texts.flatMap((text) => text.toLowerCase().match(WORD) ?? []));
  const marked = (text, referenceWords) => {
    const parts = [];
    let end = 0;
    for (const { 0: word, index } of text.matchAll(WORD)) {
      if (referenceWords.has(word.toLowerCase())) continue;
      parts.push(text.slice(end, index), make("span", { className: "new", textContent: word, title: "in no reference" }));
      end = index + word.length;
    }
    return [...parts, text.slice(end)];
  };
  const swatch = (system) => {
    const node = make("span", { className: "swatch" });
    node.style.setProperty("--colour", `var(--s${system.colour})`);
    node.style.opacity = system.baseline ? 0.5 : 1;
    return node;
  };
  const caption = (system, image, referenceWords, highest) => {
    const text = system.captions[image];
    const words = text.trim()
      ? make("span", { className: "text", dir: "auto" }, ...marked(text, referenceWords))
      : make("span", { className: "text empty", textContent: "(empty)" });
    const row = make("li", {}, make("span", { className: "system" }, swatch(system), make("bdi", { textContent: system.name })), words);
    row.dataset.system = system.name;
    if (!lead) return row;
    const number = figure(system, lead, image);
    const node = make("span", { className: "figure", textContent: printed(lead, number) });
    node.title = metrics.map(({ name }) => `${name} ${printed(name, figure(system, name, image))}`).join("\n");
    node.classList.toggle("first", number !== null && number === highest);
    node.style.setProperty("--colour", `var(--s${system.colour})`);
    node.style.setProperty("--part", Math.min(1, Math.max(0, (number ?? 0) / full)));
    row.append(node);
    return row;
  };
  const allFigures = (visible, image) => make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "system" }),
      ...metrics.map(({ name }) => make("th", { scope: "col", textContent: name })))),
    make("tbody", {}, ...visible.map((system) => make("tr", {},
      make("th", { scope: "row" }, make("bdi", { textContent: system.name })),
      ...metrics.map(({ name }) => make("td", { textContent: printed(name, figure(system, name, image)) }))))));
  const picture = (image) => {
    const { jpeg, size, why } = pictures[image];
    if (!jpeg) return make("div", { className: "missing", textContent: why });
    return make("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: images[image], width: size[0], height: size[1] });
  };
  const article = (visible, image) => {
    const referenceWords = wordsOf(references[image]);
    const numbers = visible.map((system) => figure(system, lead, image)).filter((x) => x !== null);
    const apart = lead ? spread(visible, image) : null;
    const content = make("div", {},
      make("div", { className: "head" }, make("h3", {}, make("bdi", { textContent: images[image] })),
        ...(apart === null ? [] : [make("span", { textContent: `${printed(lead, apart)} apart` })])),
      make("ul", { className: "captions" },
        ...visible.map((system) => caption(system, image, referenceWords, numbers.length > 1 ? Math.max(...numbers) : null))));
    const count = references[image].length;
    const folded = make("div", { className: "more" }, make("details", {},
      make("summary", { textContent: count === 1 ? "1 reference" : `${count} references` }),
      make("ul", { className: "references" }, ...references[image].map((text) => make("li", { textContent: text, dir: "auto" })))));
    if (metrics.length) {
      const details = make("details", {}, make("summary", { textContent: "All figures" }));
      details.addEventListener("toggle", () => details.append(
        make("div", { className: "scroll", tabIndex: 0 }, allFigures(visible, image))), { once: true });
      folded.append(details);
    }
    content.append(folded);
    const node = make("article", { className: pictures ? "image" : "image bare" }, ...(pictures ? [picture(image)] : []), content);
    node.dataset.name = images[image];
    return node;
  };

  // ---- Controls.
  const [field, choice, turn] = [find("#find"), find("#sort"), find("#order")];
  const list = find("#images");
  const labels = { disagree: `${lead}: systems disagree most`, name: "name", given: "as given" };
  for (const sort of sorts) {
    if (!lead && sort !== "name" && sort !== "given") continue;
    choice.append(make("option", { value: sort, textContent: labels[sort] ?? `${lead} of ${sort.slice(7)}` }));
  }
  const boxes = systems.map((system) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => go({ hide: systems.filter((_, i) => !boxes[i].checked).map(({ name }) => name) }));
    find("#systems").append(make("label", {}, box, make("span", {}, swatch(system), make("bdi", { textContent: system.name }))));
    return box;
  });
  let waiting;
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go({ find: field.value }, true), 150);
  });
  find("#controls").addEventListener("submit", (event) => event.preventDefault());
  choice.addEventListener("change", () => go({ sort: choice.value, order: usual(choice.value) }));
  turn.addEventListener("click", () => go({ order: state.order === "asc" ? "desc" : "asc" }));
  for (const pager of findAll(".pager")) {
    const step = (by) => () => { go({ page: state.page + by }); find("#captions").scrollIntoView(); };
    find(".back", pager).addEventListener("click", step(-1));
    find(".on", pager).addEventListener("click", step(1));
  }

  function draw() {
    const visible = systems.filter(({ name }) => !state.hide.includes(name));
    const wanted = chosen(visible);
    const pages = Math.max(1, Math.ceil(wanted.length / PAGE));
    state.page = Math.min(state.page, pages);
    if (field.value !== state.find) field.value = state.find;
    choice.value = state.sort;
    turn.textContent = state.order === "asc" ? "↑ ascending" : "↓ descending";
    boxes.forEach((box, i) => { box.checked = !state.hide.includes(systems[i].name); });
    list.replaceChildren(...wanted.slice((state.page - 1) * PAGE, state.page * PAGE).map((image) => article(visible, image)));
    const count = wanted.length === images.length ? `${images.length} images` : `${wanted.length} of ${images.length} images`;
    for (const pager of findAll(".pager")) {
      find("p", pager).textContent = `${count} · page ${state.page} of ${pages}`;
      find(".back", pager).disabled = state.page <= 1;
      find(".on", pager).disabled = state.page >= pages;
    }
  }
  draw();
})();
