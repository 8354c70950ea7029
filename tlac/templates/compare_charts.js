"use strict";
/* Accuracies with their intervals, and accuracy against cost, one chart a dataset. */

const nameOfRun = (run) => page.configurations[run.configuration];
const pointsText = (share) => percent(share).replace("\u00a0%", "");

/* The runs on one dataset by falling accuracy: a forest plot. */
function forestPlot(title, runs) {
  const sorted = [...runs].sort((a, b) => b.accuracy - a.accuracy);
  const color = { best: "var(--right)", near: "var(--accent)", "": "var(--quiet)", untested: "var(--quiet)" };
  const low = Math.min(...sorted.map((run) => run.ci95[0]));
  const place = (run) => sorted.indexOf(run);
  return chart(title, "With 95 % intervals.", (width) => {
    const longest = 6.8 * Math.max(...sorted.map((run) => label(nameOfRun(run)).length)) + 12;
    // where the names leave no room beside them they stand above their lines
    const isBeside = longest < 0.4 * width;
    const written = (run) => label(nameOfRun(run), isBeside ? 60 : Math.floor(width / 6.8));
    return {
      height: 50 + (isBeside ? 26 : 42) * sorted.length,
      marginTop: isBeside ? 8 : 16,
      marginLeft: isBeside ? longest : 8,
      marginRight: 122,
      x: { percent: true, domain: [Math.max(0, 100 * low - 4), 100], label: "top-1 accuracy (%) →", grid: true, ticks: Math.max(2, Math.floor(width / 130)) },
      y: { type: "point", domain: sorted.map(place), label: null, tickSize: 0, tickFormat: (index) => (isBeside ? written(sorted[index]) : "") },
      marks: [
        Plot.ruleY(sorted, { y: place, x1: (run) => run.ci95[0], x2: (run) => run.ci95[1], stroke: (run) => color[run.mark], strokeWidth: 2 }),
        Plot.dot(sorted, {
          y: place, x: "accuracy", r: 4.5, fill: (run) => color[run.mark],
          title: (run) => `${label(nameOfRun(run))}\n${percent(run.accuracy)} of ${count(run.n)}${run.is_complete ? "" : ", incomplete"}`, tip: tip(),
        }),
        isBeside ? null : Plot.text(sorted, { y: place, frameAnchor: "left", textAnchor: "start", dy: -15, fontSize: 12, text: written }),
        Plot.text(sorted, {
          y: place, frameAnchor: "right", textAnchor: "start", dx: 8, fontSize: 11.5,
          text: (run) => `${pointsText(run.accuracy)} (${pointsText(run.ci95[0])}–${pointsText(run.ci95[1])})`,
        }),
      ],
    };
  });
}

/* Ticks of money: powers of ten on a logarithmic scale. */
function powersOfTen([low, high]) {
  const powers = [];
  for (let power = Math.ceil(Math.log10(low)); 10 ** power <= high; power++) powers.push(10 ** power);
  return powers;
}

function costChart(title, runs) {
  const priced = runs.filter((run) => run.cost_usd !== null);
  const frontier = priced.filter((run) => run.is_frontier).sort((a, b) => a.cost_usd - b.cost_usd);
  const costs = priced.map((run) => run.cost_usd);
  const accuracies = priced.map((run) => 100 * run.accuracy);
  const isLog = Math.min(...costs) > 0 && Math.max(...costs) > 20 * Math.min(...costs);
  const xDomain = isLog ? [Math.min(...costs) / 1.6, Math.max(...costs) * 1.6] : [0, Math.max(...costs) * 1.1];
  // equal accuracies would leave no height at all
  const room = Math.max(1, 0.15 * (Math.max(...accuracies) - Math.min(...accuracies)));
  const yDomain = [Math.max(0, Math.min(...accuracies) - room), Math.min(100, Math.max(...accuracies) + room)];
  return chart(title, costNote(runs, priced, frontier), (width) => {
    const height = Math.min(320, Math.max(220, width * 0.6));
    const [marginLeft, marginRight, marginTop, marginBottom] = [40, 16, 24, 42];
    const along = isLog ? Math.log10 : (value) => value;
    const share = (value, [low, high]) => (value - low) / (high - low);
    const labels = placeLabels(
      priced.map((run) => ({
        run,
        x: marginLeft + (width - marginLeft - marginRight) * share(along(run.cost_usd), xDomain.map(along)),
        y: height - marginBottom - (height - marginTop - marginBottom) * share(100 * run.accuracy, yDomain),
        text: label(nameOfRun(run), 32),
      })),
      width,
    );
    return {
      height, marginLeft, marginRight, marginTop, marginBottom,
      x: {
        label: "cost of 1,000 images (USD) →", type: isLog ? "log" : "linear", domain: xDomain,
        ticks: isLog ? powersOfTen(xDomain) : Math.max(2, Math.floor(width / 110)), tickFormat: money,
      },
      y: { percent: true, domain: yDomain, grid: true, ticks: 4, tickFormat: (value) => String(Number(value.toFixed(2))), label: "↑ top-1 accuracy (%)" },
      marks: [
        Plot.line(frontier, { x: "cost_usd", y: "accuracy", stroke: "var(--accent)", strokeWidth: 1.5, curve: "step-after" }),
        Plot.dot(priced, {
          x: "cost_usd", y: "accuracy", r: 5, fill: (run) => (run.is_frontier ? "var(--accent)" : "var(--quiet)"), stroke: "var(--raised)",
          title: (run) => `${label(nameOfRun(run))}\n${percent(run.accuracy)}, ${money(run.cost_usd)} per 1,000 images`, tip: tip(),
        }),
        ...labels.map(({ run, text, dx, dy, textAnchor }) =>
          Plot.text([run], { x: "cost_usd", y: "accuracy", text: [text], dx, dy, textAnchor, fontSize: 11, fill: "var(--ink)" }),
        ),
      ],
    };
  });
}

/* What the chart says, of the runs that it names: the others have no known cost. */
function costNote(runs, priced, frontier) {
  const names = (some) => some.map((run) => label(nameOfRun(run), 60)).join("; ");
  const unpriced = runs.filter((run) => run.cost_usd === null);
  const best = frontier[frontier.length - 1];
  const first =
    priced.length === 1
      ? "One configuration has a known cost."
      : frontier.length > 1
        ? `The line is the Pareto frontier of the ${priced.length} configurations with a known cost.`
        : `Of the ${priced.length} configurations with a known cost, ${label(nameOfRun(best), 60)} is both the cheapest and the most accurate.`;
  const sizes = d3.extent(priced, (run) => run.n);
  const notes = sizes[0] < sizes[1] ? [first, `They ran on different numbers of images (${count(sizes[0])} to ${count(sizes[1])}).`] : [first];
  if (unpriced.length) notes.push(`Left out, as their cost is unknown: ${names(unpriced)}.`);
  const above = unpriced.filter((run) => run.accuracy > best.accuracy);
  if (above.length) notes.push(`More accurate than all that are shown: ${names(above)}.`);
  return notes.join(" ");
}

/* Where each point's name can stand without touching another name or point; a name that finds no place is left to
   the tooltip. */
function placeLabels(points, width) {
  const boxes = points.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  const placed = [];
  for (const { run, x, y, text } of points) {
    const length = 6 * text.length;
    const tries = [
      { dx: 9, dy: 0, textAnchor: "start", box: [x + 8, y - 7, x + 10 + length, y + 7] },
      { dx: -9, dy: 0, textAnchor: "end", box: [x - 10 - length, y - 7, x - 8, y + 7] },
      ...[-15, 15, -30, 30].map((dy) => ({ dx: 0, dy, textAnchor: "middle", box: [x - length / 2, y + dy - 7, x + length / 2, y + dy + 7] })),
    ];
    const isFree = ([left, top, right, bottom]) =>
      left >= 0 && right <= width && top >= 0 && boxes.every((other) => right < other[0] || left > other[2] || bottom < other[1] || top > other[3]);
    const found = tries.find((one) => isFree(one.box));
    if (!found) continue;
    boxes.push(found.box);
    placed.push({ run, text, ...found });
  }
  return placed;
}
