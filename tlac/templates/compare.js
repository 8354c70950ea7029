"use strict";
/* The page of several runs: fills its places. */

const put = (id, ...parts) => document.getElementById(id)?.replaceChildren(...parts);
const configuration = (index) => page.configurations[index];
const points = (difference) => `${difference > 0 ? "+" : ""}${(100 * difference).toFixed(1)}`;

if (page.tests.length) {
  const names = (test) => `${configuration(test.first)} ${configuration(test.second)} ${page.datasets[test.dataset]}`;
  const table = new SortedTable(
    [
      { title: "dataset", value: (test) => page.datasets[test.dataset], show: (test) => outside(page.datasets[test.dataset], "clip") },
      { title: "first", className: "name", value: (test) => configuration(test.first), show: (test) => outside(configuration(test.first), "clip") },
      { title: "second", className: "name", value: (test) => configuration(test.second), show: (test) => outside(configuration(test.second), "clip") },
      { title: "difference", isNumber: true, value: (test) => test.difference, show: (test) => `${points(test.difference)} (${points(test.low)} to ${points(test.high)})` },
      { title: "p", isNumber: true, value: (test) => test.p, show: (test) => make(test.p < 0.05 ? "b" : "span", { textContent: test.p < 0.001 ? "< 0.001" : fixed(test.p) }) },
      { title: "κ", isNumber: true, value: (test) => test.kappa, show: (test) => fixed(test.kappa, 2) },
      { title: "n", isNumber: true, value: (test) => test.n, show: (test) => count(test.n) },
    ],
    page.tests,
    { size: 20, sortBy: 0, isFalling: false, textOf: names, word: "Find" },
  );
  put("pair-table", table.element);
}

const byDataset = page.datasets.map((_, dataset) => page.runs.filter((run) => run.dataset === dataset && run.accuracy !== null));
const measured = byDataset.filter((runs) => runs.length);
const titleOf = (runs) => label(page.datasets[runs[0].dataset]);
put("forest-plots", ...(measured.length ? measured.map((runs) => forestPlot(titleOf(runs), runs)) : ["No run has labels and answers."]));
const costed = measured.filter((runs) => runs.some((run) => run.cost_usd > 0));
put("cost-charts", ...(costed.length ? costed.map((runs) => costChart(titleOf(runs), runs)) : ["No cost above zero is known."]));

const marks = {
  best: ["★ ", "best", "significantly better than every other one on this dataset"],
  near: ["≈ ", "near", "no other one is significantly better"],
  untested: ["? ", "none", "not tested: it shares no labelled image with any other"],
};

function accuracyCell(run) {
  const [mark, className, title] = marks[run.mark] ?? ["", "", ""];
  const ci95 = run.ci95 === null ? "" : ` (${pointsText(run.ci95[0])}–${pointsText(run.ci95[1])})`;
  return make("span", { title }, make(run.mark === "best" ? "b" : "span", { className, textContent: `${mark}${percent(run.accuracy)}` }), make("small", { textContent: ci95 }));
}

const runTable = new SortedTable(
  [
    { title: "dataset", className: "name", value: (run) => page.datasets[run.dataset], show: (run) => outside(page.datasets[run.dataset], "clip") },
    { title: "configuration", className: "name", value: (run) => configuration(run.configuration), show: (run) => make("span", {}, outside(configuration(run.configuration), "clip"), run.is_complete ? null : make("small", { className: "wrong", textContent: "incomplete" })) },
    { title: "top-1 accuracy", isNumber: true, value: (run) => run.accuracy, show: accuracyCell },
    { title: "coverage", isNumber: true, value: (run) => run.coverage, show: (run) => percent(run.coverage) },
    { title: "n", isNumber: true, value: (run) => run.n, show: (run) => count(run.n) },
    { title: "cost of 1,000", isNumber: true, value: (run) => run.cost_usd, show: (run) => (run.cost_usd === null ? "unknown" : money(run.cost_usd)) },
    { title: "time of the run", isNumber: true, value: (run) => run.wall_s, show: (run) => seconds(run.wall_s) },
  ],
  page.runs,
  { size: 40, sortBy: 2, textOf: (run) => `${configuration(run.configuration)} ${page.datasets[run.dataset]}`, word: "Find" },
);
put("run-table", runTable.element);

class Disagreements {
  constructor(samples) {
    this.samples = samples;
    this.cards = new CardList(48, drawCard, detailCard);
    const refresh = () => this.refresh();
    const named = (names) => names.map((name, index) => [String(index), label(name)]);
    this.dataset = select("dataset", [["", "any"], ...named(page.datasets)], refresh);
    this.right = select("correct", [["", "any"], ...named(page.configurations), ["none", "none of them"]], refresh);
    this.wrong = select("wrong", [["", "any"], ...named(page.configurations)], refresh);
    this.words = make("input", { type: "search", placeholder: "file, answer, class …", oninput: refresh });
    const filters = [this.dataset, this.right, this.wrong].map((filter) => filter.element);
    const controls = make("div", { className: "controls", role: "search", "aria-label": "Filter the samples" }, make("label", {}, "find", this.words), ...filters);
    this.element = make("div", {}, controls, this.cards.element);
    this.refresh();
  }

  refresh() {
    const [dataset, right, wrong] = [this.dataset, this.right, this.wrong].map((filter) => filter.list.value);
    const words = this.words.value.trim().toLowerCase();
    this.cards.fill(
      this.samples.filter(
        (sample) =>
          (dataset === "" || sample.dataset === Number(dataset)) &&
          (right === "" || (right === "none" ? !isAnyRight(sample) : isRight(sample, Number(right)) === true)) &&
          (wrong === "" || isRight(sample, Number(wrong)) === false) &&
          (!words || textsOf(sample).some((text) => text.toLowerCase().includes(words))),
      ),
    );
  }
}

const nameOf = (sample, index) => (index === null ? null : page.classes[sample.dataset][index]);
const isAnyRight = (sample) => sample.predicted.includes(sample.label);

/* Whether a configuration is right about a sample; undefined where it has not run on its dataset. */
function isRight(sample, index) {
  const place = sample.configurations.indexOf(index);
  return place < 0 ? undefined : sample.predicted[place] === sample.label;
}

function textsOf(sample) {
  const named = [...sample.predicted, sample.label].map((index) => nameOf(sample, index) ?? "");
  return [sample.sample, ...named, ...sample.answers.map((number) => (number < 0 ? "" : page.texts[number]))];
}

function verdictOf(sample, place) {
  if (sample.predicted[place] === null) return "no answer";
  if (sample.label === null) return "unlabelled";
  return sample.predicted[place] === sample.label ? "correct" : "wrong";
}

const predictionLine = (sample, place) => verdictLine(verdictOf(sample, place), nameOf(sample, sample.predicted[place]) ?? "no answer");

function drawCard(sample) {
  const lines = sample.configurations.map((index, place) => make("span", { className: "pair" }, make("small", {}, outside(label(configuration(index), 40))), predictionLine(sample, place)));
  const truth = sample.label === null ? null : make("span", { className: "clip" }, "true: ", outside(nameOf(sample, sample.label)));
  return { className: "", parts: [make("span", { className: "picture" }, picture(sample.thumbnail, "")), make("span", { className: "words" }, truth, ...lines)] };
}

function detailCard(sample) {
  const truth = sample.label === null ? "no label" : outside(nameOf(sample, sample.label));
  const answers = sample.configurations.map((index, place) =>
    make("div", {}, make("h3", {}, outside(configuration(index))), predictionLine(sample, place), sample.answers[place] < 0 ? null : make("blockquote", {}, outside(page.texts[sample.answers[place]]))),
  );
  const facts = factList([["true class", truth], ["dataset", outside(page.datasets[sample.dataset])]]);
  return { title: sample.sample, parts: [make("div", { className: "picture" }, picture(sample.thumbnail, sample.sample)), make("div", {}, facts, ...answers)] };
}

put("samples", page.disagreements.length ? new Disagreements(page.disagreements).element : "No sample was predicted differently.");
