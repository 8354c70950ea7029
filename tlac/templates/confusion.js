"use strict";
/* The confusions: the most frequent pairs, and the matrix of the classes in them. A click shows the samples. */

function confusionView({ pairs, wrong_pairs, classes, cells, others, unanswered }, showSamples) {
  if (!pairs.length) return make("p", { textContent: "No class was taken for another." });
  const name = (index) => page.classes[index];
  const table = new SortedTable(
    [
      { title: "truth", className: "name", value: (pair) => name(pair.truth), show: (pair) => pairLink(pair, name(pair.truth)) },
      { title: "taken for", className: "name", value: (pair) => name(pair.predicted), show: (pair) => outside(name(pair.predicted), "wrong clip") },
      { title: "times", isNumber: true, value: (pair) => pair.count, show: (pair) => count(pair.count) },
      { title: "of class", isNumber: true, value: (pair) => pair.count / pair.n, show: (pair) => percent(pair.count / pair.n, 0) },
    ],
    pairs,
    { size: 12, sortBy: 2, textOf: (pair) => `${name(pair.truth)} ${name(pair.predicted)}`, word: "Find a class" },
  );
  function pairLink(pair, text) {
    return make("button", { type: "button", className: "link", onclick: () => showSamples(pair.truth, pair.predicted) }, outside(text, "clip"));
  }
  const told = wrong_pairs > pairs.length ? ` (the ${count(pairs.length)} most frequent of ${count(wrong_pairs)})` : "";
  return make(
    "div",
    { className: "split" },
    make("div", {}, make("h3", { textContent: `Most confused pairs${told}` }), table.element),
    make("div", {}, make("h3", { textContent: "The classes in them" }), matrix()),
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
    const head = make("tr", {}, make("th", { textContent: "truth ↓  taken for →" }), ...columns, make("th", { textContent: "other" }), make("th", { textContent: "none" }));
    return make("div", { className: "scroll" }, make("table", { className: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function matrixCell(cell, n, row, column) {
    const className = row === column ? "diagonal" : "";
    if (!cell) return make("td", { className }, make("span"));
    const title = label(`${name(row)} taken for ${name(column)}: ${cell} of ${n}`, 200);
    const button = make("button", { type: "button", title, "aria-label": title, textContent: count(cell), "--strength": (0.15 + (0.85 * cell) / n).toFixed(3), onclick: () => showSamples(row, column) });
    return make("td", { className }, button);
  }
}
