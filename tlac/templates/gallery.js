"use strict";
/* The gallery of one run: filters over columns, so that 50,000 samples answer at once, and cards. */

const samples = page.samples;
// equal answers have one decision: each of its columns becomes one of samples
for (const [name, column] of Object.entries(samples.decisions)) samples[name] = samples.decision.map((decision) => column[decision]);
const textAt = (number) => (number < 0 ? null : samples.texts[number]);
const className = (index) => (index === null ? null : page.classes[index]);
const outcomeOf = (sample) => samples.outcomes[samples.outcome[sample]];
const decisionOf = (sample) => (samples.decided_by[sample] < 0 ? null : samples.steps[samples.decided_by[sample]]);

function verdictOf(sample) {
  if (samples.predicted[sample] === null) return "no answer";
  if (samples.label[sample] === null) return "unlabelled";
  return samples.predicted[sample] === samples.label[sample] ? "correct" : "wrong";
}

class Gallery {
  constructor() {
    const everything = samples.sample.map((_, sample) => sample);
    this.everything = everything;
    this.margins = samples.margin.filter((margin) => margin !== null).sort((a, b) => a - b);
    this.cards = new CardList(48, drawCard, detailCard);
    const refresh = () => this.refresh();
    const found = (values) => [...new Set(values)].sort();
    const named = (values) => values.map((value) => [value, value]);
    const classes = (column) =>
      found(column.filter((index) => index !== null))
        .map((index) => [String(index), label(className(index))])
        .sort((a, b) => a[1].localeCompare(b[1]));
    this.verdict = select("verdict", [["", "any"], ...named(found(everything.map(verdictOf)))], refresh);
    this.outcome = select("outcome", [["", "any"], ...named(found(everything.map(outcomeOf)))], refresh);
    this.decidedBy = select("decided by", [["", "any"], ...found(samples.decided_by.filter((step) => step >= 0)).map((step) => [String(step), samples.steps[step]])], refresh);
    this.truth = select("true class", [["", "any class"], ...classes(samples.label)], refresh);
    this.predicted = select("predicted", [["", "any class"], ...classes(samples.predicted)], refresh);
    this.margin = select("margin", [["", "any"], ["0.05", "lowest 5 %"], ["0.1", "lowest 10 %"], ["0.25", "lowest 25 %"]], refresh);
    this.order = select(
      "order",
      [["", "as in the dataset"], ["certain", "most certain mistakes first"], ["margin", "lowest margin first"], ["low", "lowest score first"], ["high", "highest score first"]],
      refresh,
    );
    this.words = make("input", { type: "search", placeholder: "file, answer, class …", oninput: refresh });
    const reset = make("button", { type: "button", textContent: "Reset", onclick: () => this.set({}) });
    this.filters = [this.verdict, this.outcome, this.decidedBy, this.truth, this.predicted, this.margin, this.order];
    const controls = make("div", { className: "controls", role: "search", "aria-label": "Filter the samples" }, make("label", { className: "find" }, "find", this.words), ...this.filters.map((filter) => filter.element), reset);
    this.element = make("div", {}, controls, this.cards.element);
    this.readAddress();
    window.addEventListener("hashchange", () => this.readAddress());
  }

  /* The filters by the names that the page's address gives them. */
  get named() {
    const { verdict, outcome, decidedBy, truth, predicted, margin, order } = this;
    return { verdict, outcome, decided: decidedBy, true: truth, predicted, margin, order };
  }

  /* Set the filters from an address such as #gallery&verdict=wrong. */
  readAddress() {
    const [section, ...pairs] = location.hash.slice(1).split("&");
    if (section !== "gallery" || !pairs.length) return this.refresh();
    const given = new URLSearchParams(pairs.join("&"));
    for (const [name, { list }] of Object.entries(this.named)) list.value = given.get(name) ?? "";
    this.words.value = given.get("find") ?? "";
    this.refresh();
    // no element has the whole address as its name
    requestAnimationFrame(() => document.getElementById("gallery").scrollIntoView({ behavior: "instant" }));
  }

  writeAddress() {
    const values = Object.entries(this.named).map(([name, { list }]) => [name, list.value]);
    const given = new URLSearchParams([...values, ["find", this.words.value]].filter(([, value]) => value));
    const wanted = given.size ? `#gallery&${given}` : location.hash.startsWith("#gallery&") ? "#gallery" : location.hash;
    if (wanted !== location.hash) history.replaceState(null, "", wanted);
  }

  /* Show samples of one class that were taken for another, and go there. */
  showPair(truth, predicted) {
    this.set({ truth, predicted });
    document.getElementById("gallery").scrollIntoView();
  }

  set(wanted) {
    for (const filter of this.filters) filter.list.value = "";
    this.words.value = "";
    for (const [name, value] of Object.entries(wanted)) this[name].list.value = value === null ? "" : String(value);
    this.refresh();
  }

  refresh() {
    const tests = this.tests();
    const shown = this.everything.filter((sample) => tests.every((test) => test(sample)));
    this.writeAddress();
    this.cards.fill(this.sorted(shown));
  }

  tests() {
    const tests = [];
    const add = (filter, test) => filter.list.value !== "" && tests.push(test(filter.list.value));
    add(this.verdict, (value) => (sample) => verdictOf(sample) === value);
    add(this.outcome, (value) => (sample) => outcomeOf(sample) === value);
    add(this.decidedBy, (value) => (sample) => samples.decided_by[sample] === Number(value));
    add(this.truth, (value) => (sample) => samples.label[sample] === Number(value));
    add(this.predicted, (value) => (sample) => samples.predicted[sample] === Number(value));
    add(this.margin, (value) => {
      const most = this.margins[Math.max(0, Math.ceil(this.margins.length * Number(value)) - 1)];
      return (sample) => samples.margin[sample] !== null && samples.margin[sample] <= most;
    });
    if (this.words.value.trim()) tests.push(this.wordTest(this.words.value.trim().toLowerCase()));
    return tests;
  }

  /* Each distinct text and class name is looked through once, however many samples share it. */
  wordTest(wanted) {
    const texts = new Set(samples.texts.flatMap((text, number) => (text.toLowerCase().includes(wanted) ? [number] : [])));
    const classes = new Set(page.classes.flatMap((name, index) => (name.toLowerCase().includes(wanted) ? [index] : [])));
    return (sample) =>
      samples.sample[sample].toLowerCase().includes(wanted) ||
      [samples.answer, samples.choice, samples.reason, samples.stage1_key, samples.stage2_key].some((column) => texts.has(column[sample])) ||
      classes.has(samples.label[sample]) ||
      classes.has(samples.predicted[sample]);
  }

  sorted(shown) {
    const by = (column, sign) => shown.sort((a, b) => sign * ((column[a] ?? sign * Infinity) - (column[b] ?? sign * Infinity)) || a - b);
    switch (this.order.list.value) {
      case "margin":
        return by(samples.margin, 1);
      case "low":
        return by(samples.score, 1);
      case "high":
        return by(samples.score, -1);
      case "certain":
        return by(samples.score, -1).sort((a, b) => (verdictOf(b) === "wrong") - (verdictOf(a) === "wrong"));
      default:
        return shown;
    }
  }
}

function drawCard(sample) {
  const verdict = verdictOf(sample);
  const truth = className(samples.label[sample]);
  const answer = textAt(samples.answer[sample]) ?? textAt(samples.reason[sample]);
  const words = make(
    "span",
    { className: "words" },
    verdictLine(verdict, className(samples.predicted[sample]) ?? outcomeOf(sample)),
    verdict !== "correct" && truth !== null ? make("span", { className: "clip" }, "true: ", outside(truth)) : null,
    answer ? outside(label(answer, 160), "answer clip") : null,
  );
  return { className: `is-${verdict.replace(" ", "-")}`, parts: [make("span", { className: "picture" }, picture(samples.thumbnail[sample], "")), words] };
}

function detailCard(sample) {
  const verdict = verdictOf(sample);
  const key = (column) => (column[sample] < 0 ? null : make("code", { textContent: textAt(column[sample]) }));
  const [words, shortlist] = [samples.words, samples.shortlist].map((column) => column[sample].map(className));
  const votes = samples.votes[sample].map((index) => className(index) ?? "none");
  const facts = factList([
    ["predicted", verdictLine(verdict, className(samples.predicted[sample]) ?? outcomeOf(sample))],
    ["true class", samples.label[sample] === null ? "no label" : outside(className(samples.label[sample]))],
    ["outcome", outcomeOf(sample)],
    ["decided by", decisionOf(sample) === null ? null : outside(decisionOf(sample))],
    ["score", fixed(samples.score[sample])],
    ["margin", fixed(samples.margin[sample])],
    ["confidence", samples.confidence[sample] === null ? null : fixed(samples.confidence[sample])],
    ["classes named in the answer", words.length ? outside(words.join(", ")) : null],
    ["votes", votes.length ? outside(votes.join(", ")) : null],
    ["candidates in stage 2", shortlist.length ? outside(shortlist.join(", ")) : null],
    ["cost of its answers", samples.cost_usd[sample] === undefined ? null : samples.cost_usd[sample] === null ? "unknown" : money(samples.cost_usd[sample])],
    ["latency of its calls", samples.latency_s[sample] === undefined ? null : seconds(samples.latency_s[sample])],
    ["stage-1 key", key(samples.stage1_key)],
    ["stage-2 key", key(samples.stage2_key)],
  ]);
  const spoken = make(
    "div",
    {},
    quote("Stage-1 answer", textAt(samples.answer[sample])),
    quote("Stage-2 choice", textAt(samples.choice[sample])),
    quote("Reason", textAt(samples.reason[sample])),
    ranking(samples.top5[sample], samples.predicted[sample], samples.label[sample]),
    facts,
  );
  return { title: samples.sample[sample], parts: [make("div", {}, make("div", { className: "picture" }, picture(samples.thumbnail[sample], samples.sample[sample])), original(samples.thumbnail[sample])), spoken] };
}
