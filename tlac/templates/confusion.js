"use strict";
/* The confusions: the most frequent pairs, and the matrix of the classes in them. A click shows the samples. */

function confusionView({ pairs, wrong_pairs, classes, cells, others, unanswered }, showSamples) {
  if (!pairs.length) return make("p", { textContent: "No class was predicted as another." });
  const name = (index) => page.classes[index];
  const support = new Map(page.per_class.map((row) => [row.index, row.n]));
  const rate = (pair) => pair.n / support.get(pair.label);
  const table = new SortedTable(
    [
      { title: "true class", className: "name", value: (pair) => name(pair.label), show: (pair) => pairLink(pair, name(pair.label)) },
      { title: "predicted", className: "name", value: (pair) => name(pair.predicted), show: (pair) => outside(name(pair.predicted), "wrong clip") },
      { title: "samples", isNumber: true, value: (pair) => pair.n, show: (pair) => count(pair.n) },
      { title: "of class", isNumber: true, value: rate, show: (pair) => percent(rate(pair), 0) },
    ],
    pairs,
    { size: 12, sortBy: 2, textOf: (pair) => `${name(pair.label)} ${name(pair.predicted)}`, word: "Find a class" },
  );
  function pairLink(pair, text) {
    return make("button", { type: "button", className: "link", onclick: () => showSamples(pair.label, pair.predicted) }, outside(text, "clip"));
  }
  const most = wrong_pairs > pairs.length ? ` (the ${count(pairs.length)} most frequent of ${count(wrong_pairs)})` : "";
  return make(
    "div",
    {},
    make("h3", { textContent: "Confusion matrix of the classes in the most confused pairs" }),
    matrix(),
    make("h3", { textContent: `Most confused pairs${most}` }),
    table.element,
  );

  function matrix() {
    const columns = classes.map((_, place) => make("th", { scope: "col", title: label(name(classes[place])), textContent: String(place + 1) }));
    const rows = classes.map((row, place) => {
      const n = cells[place].reduce((sum, cell) => sum + cell, others[place] + unanswered[place]);
      const marks = cells[place].map((cell, column) => matrixCell(cell, n, row, classes[column]));
      return make(
        "tr",
        {},
        make("th", { scope: "row", title: label(name(row)) }, `${place + 1} `, outside(name(row))),
        ...marks,
        make("td", { className: "none" }, make("span", { textContent: others[place] || "" })),
        make("td", { className: "none" }, make("span", { textContent: unanswered[place] || "" })),
      );
    });
    const head = make("tr", {}, make("th", { textContent: "true ↓  predicted →" }), ...columns, make("th", { textContent: "other" }), make("th", { textContent: "none" }));
    return make("div", { className: "scroll" }, make("table", { className: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function matrixCell(cell, n, row, column) {
    const className = row === column ? "diagonal" : "";
    if (!cell) return make("td", { className }, make("span"));
    const title = label(`${name(row)} predicted as ${name(column)}: ${cell} of ${n}`, 200);
    const button = make("button", { type: "button", title, "aria-label": title, textContent: count(cell), "--strength": (0.15 + (0.85 * cell) / n).toFixed(3), onclick: () => showSamples(row, column) });
    return make("td", { className }, button);
  }
}
