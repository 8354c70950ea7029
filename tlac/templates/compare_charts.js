"use strict";
/* Accuracy against cost, one chart a dataset. */

function costChart(title, points) {
  const frontier = points.filter((point) => point.is_frontier).sort((a, b) => a.cost_usd - b.cost_usd);
  const costs = points.map((point) => point.cost_usd);
  const isWide = Math.min(...costs) > 0 && Math.max(...costs) > 20 * Math.min(...costs);
  const name = (point) => label(page.configurations[point.configuration], 40);
  const note = frontier.length > 1 ? "The line is the Pareto frontier." : "One configuration dominates all others.";
  return chart(title, note, (width) => ({
    marginRight: Math.min(width * 0.3, 120),
    x: { label: "USD per 1,000 samples →", type: isWide ? "log" : "linear", zero: !isWide, nice: true, ticks: 5 },
    y: { percent: true, nice: true, grid: true, label: "↑ top-1 accuracy (%)" },
    marks: [
      Plot.line(frontier, { x: "cost_usd", y: "accuracy", stroke: "var(--accent)", strokeWidth: 1.5, curve: "step-after" }),
      Plot.dot(points, {
        x: "cost_usd", y: "accuracy", r: 5, fill: (point) => (point.is_frontier ? "on" : "off"), stroke: "var(--raised)",
        title: (point) => `${name(point)}\n${percent(point.accuracy)}, $${point.cost_usd.toPrecision(3)} per 1,000`, tip: tip(),
      }),
      Plot.text(points, { x: "cost_usd", y: "accuracy", text: name, dx: 9, textAnchor: "start", fontSize: 11, fill: "var(--ink)" }),
    ],
    color: { domain: ["on", "off"], range: ["var(--accent)", "var(--quiet)"] },
  }));
}
