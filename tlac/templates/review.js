"use strict";
/* The review of labels: one image after the other, the doubtful first, with the keyboard or by touch.
   What a person decides is kept in the browser, where it allows that, and leaves it as a CSV file alone. */

const rows = page.rows;
const everything = rows.path.map((_, row) => row);
const NONE = -1; // no class: of a row's label, or what a person decided
const textAt = (number) => (number < 0 ? "" : page.texts[number]);
const nameOf = (index) => (index === NONE ? null : page.classes[index]);
const isDoubtful = (row) => rows.label[row] !== NONE && rows.confidence[row] !== null && rows.confidence[row] < page.doubtful_below;
// the folder that all images share is left out where there is little room
const shared = rows.path.reduce((prefix, path) => {
  while (!path.startsWith(prefix)) prefix = prefix.replace(/[^/]*\/$/, "");
  return prefix;
}, rows.path.length ? rows.path[0].slice(0, rows.path[0].lastIndexOf("/") + 1) : "").length;
/* Foreign text as far as a person reads it: a name of 100,000 letters takes seconds to be laid out. */
const brief = (text, className = "clip") => outside(text.length > 300 ? `${text.slice(0, 299)}…` : text, className);
const shortPath = (row) => rows.path[row].slice(shared);
// of few labels all are to be reviewed
const hasSample = everything.some((row) => rows.label[row] !== NONE && !rows.drawn[row]);
const put = (id, ...parts) => document.getElementById(id).replaceChildren(...parts);

/* What was decided: by row the class, or NONE where none fits. Undo gives the last decisions back, the newest first. */
class Decisions {
  constructor(key) {
    this.key = key;
    // what a file of corrections says already
    this.byRow = new Map(everything.filter((row) => rows.decided[row] !== null).map((row) => [row, rows.decided[row]]));
    this.past = [];
    this.isKept = true;
    this.isUnsaved = false;
    try {
      const kept = JSON.parse(localStorage.getItem(key) ?? "null");
      // the file is newer than what was decided on a page without it
      const isNewer = kept?.base === page.base;
      for (const [row, index] of kept?.decided ?? []) {
        if (row in rows.path && (index === NONE || index in page.classes) && (isNewer || !this.byRow.has(row))) this.byRow.set(row, index);
      }
    } catch {
      this.isKept = false;
    }
  }

  set(row, index) {
    this.past.push([row, this.byRow.get(row)]);
    this.byRow.set(row, index);
    this.keep();
  }

  /* The row whose decision was taken back, or undefined. */
  undo() {
    if (!this.past.length) return undefined;
    const [row, before] = this.past.pop();
    if (before === undefined) this.byRow.delete(row);
    else this.byRow.set(row, before);
    this.keep();
    return row;
  }

  keep() {
    this.isUnsaved = true;
    try {
      localStorage.setItem(this.key, JSON.stringify({ base: page.base, decided: [...this.byRow] }));
    } catch {
      this.isKept = false;
    }
  }

  isChanged(row) {
    return this.byRow.has(row) && this.byRow.get(row) !== rows.label[row];
  }
}

/* A list of rows of one height, of which only those in sight are in the page. */
class RowList {
  constructor(element, draw) {
    this.element = element;
    this.draw = draw;
    this.height = 60;
    this.shown = [];
    this.space = make("div");
    this.none = make("p", { className: "nothing", textContent: "No image fits these filters." });
    element.append(this.space, this.none);
    element.addEventListener("scroll", () => requestAnimationFrame(() => this.paint()));
    new ResizeObserver(() => this.paint()).observe(element);
  }

  fill(shown) {
    this.shown = shown;
    this.space.style.height = `${shown.length * this.height}px`;
    this.none.hidden = shown.length > 0;
    this.element.scrollTop = 0;
    this.paint();
  }

  paint() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.height) - 4);
    const last = Math.min(this.shown.length, first + Math.ceil(this.element.clientHeight / this.height) + 8);
    const drawn = [];
    for (let place = first; place < last; place += 1) {
      const element = this.draw(this.shown[place], place);
      element.style.top = `${place * this.height}px`;
      drawn.push(element);
    }
    this.space.replaceChildren(...drawn);
  }

  reveal(place) {
    const top = place * this.height;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.element.scrollTop = top + this.height - clientHeight;
    this.paint();
  }
}

/* Finds a class by some of its letters; `choose(index)` is told which one was taken. */
class ClassSearch {
  constructor(choose) {
    this.choose = choose;
    this.folded = page.classes.map((name) => name.toLowerCase());
    this.found = [];
    this.active = 0;
    this.input = make("input", { type: "search", placeholder: "Another class: type to search", "aria-label": "Search a class", autocomplete: "off", oninput: () => this.find() });
    this.list = make("ul", { className: "choices", "aria-label": "Classes found" });
    this.element = make("div", { className: "search" }, this.input, this.list);
    this.input.addEventListener("keydown", (event) => this.press(event));
  }

  find() {
    const words = this.input.value.trim().toLowerCase();
    const rank = (name) => (name === words ? 0 : name.startsWith(words) ? 1 : name.includes(` ${words}`) ? 2 : 3);
    this.found = words ? this.folded.flatMap((name, index) => (name.includes(words) ? [index] : [])) : [];
    this.found = this.found.sort((a, b) => rank(this.folded[a]) - rank(this.folded[b]) || a - b).slice(0, 8);
    this.active = 0;
    this.paint(words);
  }

  paint(words) {
    const buttons = this.found.map((index, place) =>
      make("li", {}, make("button", { type: "button", className: place === this.active ? "is-active" : "", onclick: () => this.take(index) }, make("kbd", { className: place === this.active ? "" : "is-away", textContent: "⏎" }), brief(nameOf(index)))),
    );
    const none = words && !buttons.length ? [make("li", { className: "quiet", textContent: "No class holds these letters." })] : [];
    this.list.replaceChildren(...buttons, ...none);
  }

  press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.clear();
    else if (event.key === "Enter" && this.found.length) this.take(this.found[this.active]);
    else if (step && this.found.length) {
      this.active = (this.active + step + this.found.length) % this.found.length;
      this.paint(true);
    } else return;
    event.preventDefault();
  }

  take(index) {
    this.clear();
    this.choose(index);
  }

  clear() {
    this.input.value = "";
    this.input.blur();
    this.find();
  }
}

class Review {
  constructor() {
    this.decisions = new Decisions(`tlac review ${page.digest}`);
    this.current = null;
    this.place = -1;
    this.search = new ClassSearch((index) => this.decide(index));
    this.list = new RowList(document.getElementById("rows"), (row, place) => this.drawRow(row, place));
    this.addFilters();
    document.getElementById("undo").addEventListener("click", () => this.undo());
    document.getElementById("download").addEventListener("click", () => this.download());
    document.getElementById("keys").addEventListener("click", () => showKeys());
    document.addEventListener("keydown", (event) => this.press(event));
    // a button that still has the focus would be pressed by the space that accepts
    document.addEventListener("keyup", (event) => event.key === " " && !event.target.closest("input, select, dialog") && event.preventDefault());
    window.addEventListener("beforeunload", (event) => {
      if (this.decisions.isUnsaved && !this.decisions.isKept) event.preventDefault();
    });
    this.refresh();
  }

  addFilters() {
    const refresh = () => this.refresh();
    const labels = [...new Set(rows.label)].map((index) => [String(index), nameOf(index) === null ? "no label" : label(nameOf(index))]);
    const outcomes = [...new Set(rows.outcome)].sort((a, b) => a - b).map((code) => [String(code), page.outcomes[code]]);
    this.state = select("show", [["", "all"], ["open", "not reviewed"], ["doubtful", "doubtful"], ["unlabelled", "without a label"], ...(hasSample ? [["drawn", "random sample"]] : []), ["reviewed", "reviewed"], ["changed", "corrected"]], refresh);
    this.order = select("order", [["", "doubtful first"], ["given", "as given"], ["sure", "most certain first"]], refresh);
    this.label = select("label", [["", "any"], ...labels.sort((a, b) => a[1].localeCompare(b[1]))], refresh);
    this.outcome = select("outcome", [["", "any"], ...outcomes], refresh);
    this.find = make("input", { type: "search", placeholder: "file, answer …", oninput: refresh });
    this.count = make("span", { className: "quiet", role: "status" });
    const filters = [this.state, this.order, this.label, ...(outcomes.length > 1 ? [this.outcome] : [])].map((filter) => filter.element);
    put("filters", make("div", { className: "controls", role: "search", "aria-label": "Filter the images" }, ...filters, make("label", { className: "find" }, "find", this.find)), this.count);
  }

  refresh() {
    const { byRow } = this.decisions;
    const states = { "": () => true, open: (row) => !byRow.has(row), doubtful: isDoubtful, unlabelled: (row) => rows.label[row] === NONE, drawn: (row) => rows.drawn[row], reviewed: (row) => byRow.has(row), changed: (row) => this.decisions.isChanged(row) };
    const words = this.find.value.trim().toLowerCase();
    const texts = new Set(page.texts.flatMap((text, number) => (text.toLowerCase().includes(words) ? [number] : [])));
    const fits = (list, column) => (row) => list.value === "" || String(column[row]) === list.value;
    const tests = [states[this.state.list.value], fits(this.label.list, rows.label), fits(this.outcome.list, rows.outcome)];
    if (words) tests.push((row) => rows.path[row].toLowerCase().includes(words) || texts.has(rows.answer[row]) || texts.has(rows.reason[row]));
    const shown = everything.filter((row) => tests.every((test) => test(row)));
    // what has no label comes after the doubtful
    const sure = (row) => rows.confidence[row] ?? page.doubtful_below;
    const sign = { "": 1, given: 0, sure: -1 }[this.order.list.value];
    if (sign) shown.sort((a, b) => sign * (sure(a) - sure(b)) || a - b);
    this.list.fill(shown);
    this.count.textContent = shown.length === everything.length ? "" : `${count(shown.length)} of ${count(everything.length)} images`;
    this.open(Math.max(0, shown.findIndex((row) => !byRow.has(row))));
  }

  /* Show the image at a place of the list. */
  open(place) {
    this.place = place;
    this.current = this.list.shown[place] ?? null;
    this.search.clear();
    const sheet = document.getElementById("sheet");
    // on a phone the list lies below
    if (this.wasOpened && sheet.getBoundingClientRect().top < 0) sheet.scrollIntoView();
    this.wasOpened = true;
    sheet.scrollTop = 0;
    put("sheet", ...(this.current === null ? [make("p", { className: "nothing", textContent: "No image fits these filters." })] : this.drawSheet(this.current)));
    this.list.reveal(place);
    this.showProgress();
  }

  /* Go on to the next image that is not reviewed, from here to the end and then from the start. */
  next() {
    const { shown } = this.list;
    const isOpen = (row) => !this.decisions.byRow.has(row);
    const after = shown.findIndex((row, place) => place > this.place && isOpen(row));
    const any = after < 0 ? shown.findIndex(isOpen) : after;
    if (any >= 0) this.open(any);
    else {
      this.open(this.place);
      document.getElementById("sheet").prepend(make("p", { className: "notice", role: "status", textContent: "Everything in this list is reviewed: download the corrected CSV, or show others." }));
    }
  }

  step(step) {
    const place = this.place + step;
    if (place >= 0 && place < this.list.shown.length) this.open(place);
  }

  decide(index) {
    if (this.current === null) return;
    this.decisions.set(this.current, index);
    this.next();
  }

  accept() {
    if (this.current !== null && rows.label[this.current] !== NONE) this.decide(rows.label[this.current]);
  }

  undo() {
    const row = this.decisions.undo();
    if (row === undefined) return;
    const place = this.list.shown.indexOf(row);
    if (place >= 0) this.open(place);
    else this.open(this.place);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, dialog")) return;
    const choices = this.current === null ? [] : choicesOf(this.current);
    const actions = { " ": () => this.accept(), 0: () => this.decide(NONE), u: () => this.undo(), "?": () => showKeys(), ArrowLeft: () => this.step(-1), ArrowUp: () => this.step(-1), ArrowRight: () => this.step(1), ArrowDown: () => this.step(1) };
    if (/^[1-9]$/.test(event.key)) {
      if (Number(event.key) <= choices.length) this.decide(choices[Number(event.key) - 1][0]);
    } else if (event.key in actions) actions[event.key]();
    else {
      // a letter begins a search, and "/" does without being part of it
      if (event.key.length === 1 && this.current !== null) this.search.input.focus();
      if (event.key !== "/") return;
    }
    event.preventDefault();
  }

  drawRow(row, place) {
    const { byRow } = this.decisions;
    const decided = byRow.get(row);
    const name = nameOf(decided ?? rows.label[row]);
    const sure = rows.confidence[row] === null ? "–" : rows.confidence[row].toFixed(2);
    const state = byRow.has(row) ? make("span", { className: "right", textContent: this.decisions.isChanged(row) ? "✎" : "✓", title: "reviewed" }) : sure;
    return make(
      "button",
      { type: "button", className: "row", "aria-current": String(row === this.current), onclick: () => this.open(place) },
      make("span", { className: "picture" }, picture(rows.thumbnail[row], "")),
      make("span", { className: "names" }, name === null ? make("span", { className: "none", textContent: byRow.has(row) ? "no class fits" : page.outcomes[rows.outcome[row]] }) : brief(name, ""), make("small", { className: "quiet" }, brief(shortPath(row), ""))),
      make("span", { className: `state ${isDoubtful(row) ? "doubtful" : ""}` }, state),
    );
  }

  drawSheet(row) {
    const { byRow } = this.decisions;
    const [own, decided] = [rows.label[row], byRow.get(row)];
    const chosen = decided ?? own;
    const choices = choicesOf(row).map(([index, score], place) =>
      make(
        "li",
        {},
        make("button", { type: "button", className: index === chosen ? "is-chosen" : "", "aria-pressed": String(index === decided), onclick: () => this.decide(index) }, make("kbd", { textContent: place + 1 }), brief(nameOf(index)), make("span", { className: "number quiet", textContent: score === null ? "" : fixed(score, 2) })),
      ),
    );
    const [answer, reason] = [textAt(rows.answer[row]), textAt(rows.reason[row])];
    const badges = [
      isDoubtful(row) ? make("span", { className: "badge doubtful", textContent: "doubtful" }) : null,
      hasSample && rows.drawn[row] ? make("span", { className: "badge", textContent: "random sample" }) : null,
      byRow.has(row) ? make("span", { className: "badge right", textContent: this.decisions.isChanged(row) ? "corrected" : "accepted" }) : null,
    ];
    const sure = rows.confidence[row];
    const action = (className, text, key, act, isOff = false) => make("button", { type: "button", className, disabled: isOff, onclick: act, "aria-label": text }, make("span", { textContent: text }), make("kbd", { textContent: key }));
    return [
      make("figure", {}, make("div", { className: "picture" }, picture(rows.thumbnail[row], label(rows.path[row], 300))), make("figcaption", {}, brief(shortPath(row)), original(rows.thumbnail[row]))),
      make(
        "div",
        { className: "words" },
        make("h2", {}, nameOf(chosen) === null ? make("span", { className: "none", textContent: byRow.has(row) ? "no class fits" : "no label" }) : brief(nameOf(chosen))),
        make("div", { className: "certain" }, ...(sure === null ? [page.outcomes[rows.outcome[row]]] : [meter(sure), `confidence ${sure.toFixed(2)}`]), ...badges),
        byRow.has(row) && own !== NONE && own !== decided ? make("small", {}, "was ", brief(nameOf(own))) : null,
        answer ? make("blockquote", {}, outside(answer)) : null,
        reason ? make("small", {}, brief(reason)) : null,
        make("ol", { className: "choices", "aria-label": "Candidates" }, ...choices),
        this.search.element,
        make(
          "div",
          { className: "actions" },
          action("accept", "Accept", "space", () => this.accept(), own === NONE),
          action("", "No class fits", "0", () => this.decide(NONE)),
          action("step", "Back", "←", () => this.step(-1), this.place <= 0),
          action("step", "Next", "→", () => this.step(1), this.place >= this.list.shown.length - 1),
        ),
      ),
    ];
  }

  showProgress() {
    const { byRow } = this.decisions;
    const reviewed = (all) => `${count(all.filter((row) => byRow.has(row)).length)} of ${count(all.length)}`;
    const changed = everything.filter((row) => this.decisions.isChanged(row)).length;
    const drawn = everything.filter((row) => rows.drawn[row]);
    put("progress", meter(byRow.size / Math.max(1, everything.length)), make("span", {}, make("strong", { textContent: reviewed(everything) }), " reviewed", make("span", { className: "wide-only quiet", textContent: ` · doubtful ${reviewed(everything.filter(isDoubtful))}${hasSample ? ` · random sample ${reviewed(drawn)}` : ""} · ${count(changed)} corrected` })));
    document.getElementById("undo").disabled = !this.decisions.past.length;
    put("notices", ...(this.decisions.isKept ? [] : [make("p", { className: "notice", textContent: "This browser keeps nothing for this page: download the corrected CSV before you close it." })]));
  }

  download() {
    const { byRow } = this.decisions;
    const line = (row) => {
      const decided = byRow.get(row);
      const texts = [rows.path[row], nameOf(rows.label[row]), rows.confidence[row], textAt(rows.runner_up[row]), rows.margin[row], textAt(rows.answer[row]), page.outcomes[rows.outcome[row]], textAt(rows.reason[row]), rows.cost_usd[row], rows.sha256[row]];
      return [...texts, byRow.has(row) ? nameOf(decided) : "", byRow.has(row) ? "yes" : "", rows.drawn[row] ? "yes" : "", page.is_calibrated ? "yes" : ""].map(cell).join(",");
    };
    const lines = [[...page.columns, "corrected_label", "reviewed", "drawn", "calibrated"].join(","), ...everything.map(line)];
    const address = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    make("a", { href: address, download: page.corrected }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    this.decisions.isUnsaved = false;
  }
}

/* A value as a cell of a CSV file; text that a spreadsheet takes for a formula is escaped, as in every file of labels. */
function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r']/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/* What the keys 1 to 9 mean for a row: [class, score]. A few classes always have the same keys. */
function choicesOf(row) {
  const scores = new Map(rows.candidates[row]);
  if (page.classes.length <= 9) return page.classes.map((_, index) => [index, scores.get(index) ?? null]);
  if (rows.label[row] !== NONE && !scores.has(rows.label[row])) return [[rows.label[row], null], ...scores];
  return [...scores].slice(0, 9);
}

function showKeys() {
  const keys = [
    ["space", "accept the label"],
    ["1 – 9", "take a candidate"],
    ["a letter, or /", "search another class; ↑ ↓ and Enter take one, Esc leaves"],
    ["0", "no class fits"],
    ["u", "undo"],
    ["← →", "go back or on without deciding"],
  ];
  const table = make("table", { className: "keys-list" }, make("tbody", {}, ...keys.map(([key, meaning]) => make("tr", {}, make("td", {}, make("kbd", { textContent: key })), make("td", { textContent: meaning })))));
  const dialog = document.getElementById("card");
  const close = make("button", { type: "button", textContent: "✕", "aria-label": "Close", onclick: () => dialog.close() });
  const merge = make("p", {}, "The corrected CSV holds every row of the labels, and what you decided. Merge it with the command that made them, and ", make("code", { textContent: `--corrections ${page.corrected}` }), ": it says how many labels were right. What the random sample says holds for all labels; the doubtful alone are worse than the rest.");
  dialog.replaceChildren(make("div", { className: "card-head" }, make("h2", { id: "card-title", textContent: "Keys" }), close), make("div", { className: "keys-body" }, table, merge));
  dialog.showModal();
}

const review = new Review();
