"use strict";
/* The page of one run: fills its places. */

const gallery = new Gallery();
const put = (id, ...parts) => document.getElementById(id).replaceChildren(...parts);

put("samples", gallery.element);
put("confusion", confusionView(page.confusion, (truth, predicted) => gallery.showPair(truth, predicted)));

if (page.per_class.length) {
  const name = (row) => page.classes[row.index];
  const recall = (row) => (row.n ? row.correct / row.n : null);
  const precision = (row) => (row.predicted ? row.correct / row.predicted : null);
  const link = (row) => make("button", { type: "button", className: "link", onclick: () => gallery.showPair(row.index, null) }, outside(name(row), "clip"));
  const bar = (row) => (row.n ? make("span", {}, meter(recall(row)), percent(recall(row), 0)) : make("span", { textContent: "–" }));
  const table = new SortedTable(
    [
      { title: "class", className: "name", value: name, show: link },
      { title: "recall", className: "wide", isNumber: false, value: recall, show: bar },
      { title: "samples", isNumber: true, value: (row) => row.n, show: (row) => count(row.n) },
      { title: "predicted", isNumber: true, value: (row) => row.predicted, show: (row) => count(row.predicted) },
      { title: "precision", isNumber: true, value: precision, show: (row) => percent(precision(row), 0) },
      { title: "F1", isNumber: true, value: (row) => (2 * row.correct) / (row.n + row.predicted), show: (row) => fixed((2 * row.correct) / (row.n + row.predicted), 2) },
    ],
    page.per_class,
    { size: 20, sortBy: 1, isFalling: false, textOf: name, word: "Find a class" },
  );
  put("class-table", table.element);
} else {
  put("class-table", "No labelled sample has an answer.");
}

// without a calibration it ranks predictions, and is no probability
const wordOf = (by) => (by === "confidence" && !page.is_calibrated ? "confidence (uncalibrated)" : by);
const certainty = page.reliability.map((found) => reliabilityChart(found, wordOf(found.by)));
if (page.risk.length) certainty.push(riskChart(page.risk, wordOf));
put("certainty-charts", ...(certainty.length ? certainty : ["No sample has both a score and a label."]));
put("call-charts", ...(page.histograms.length ? page.histograms.map(histogramChart) : ["No time or cost is known that differs between calls."]));

const unanswered = gallery.everything.filter((sample) => outcomeOf(sample) !== "answered");
if (unanswered.length) {
  const reason = (sample) => textAt(samples.reason[sample]) ?? textAt(samples.answer[sample]) ?? "";
  const table = new SortedTable(
    [
      { title: "outcome", value: outcomeOf, show: (sample) => outcomeOf(sample) },
      { title: "sample", className: "name", value: (sample) => samples.sample[sample], show: (sample) => make("button", { type: "button", className: "link", onclick: () => gallery.cards.openAlone(sample) }, outside(samples.sample[sample], "clip")) },
      { title: "true class", value: (sample) => className(samples.label[sample]) ?? "", show: (sample) => outside(className(samples.label[sample]) ?? "–", "clip") },
      { title: "reason", value: reason, show: (sample) => outside(label(reason(sample), 400) || "none given", "clip") },
    ],
    unanswered,
    { size: 20, isFalling: false, textOf: (sample) => `${outcomeOf(sample)} ${samples.sample[sample]} ${reason(sample)}`, word: "Find a reason" },
  );
  put("unanswered-table", table.element);
}
