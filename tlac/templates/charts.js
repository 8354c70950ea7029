"use strict";
/* Charts, drawn by Observable Plot as SVG in the page's own colours, anew when their place changes its width. */

/* A panel with a title, a word on what it shows, and a chart: `options(width)` are Plot's. */
function chart(title, note, options) {
  const figure = make("figure");
  const panel = make("div", { className: "panel" }, make("h3", { textContent: title }), make("p", { className: "quiet", textContent: note }), figure);
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.round(figure.clientWidth);
    if (!width || width === drawn) return;
    drawn = width;
    const svg = Plot.plot({
      width,
      marginBottom: 42,
      height: Math.min(300, Math.max(200, width * 0.6)),
      style: { background: "none", color: "inherit", fontSize: "12px", fontFamily: "inherit" },
      ariaLabel: `${title}. ${note}`,
      ...options(width),
    });
    svg.setAttribute("role", "img");
    figure.replaceChildren(svg);
  }).observe(figure);
  return panel;
}

const share = { percent: true, nice: true, grid: true };

function reliabilityChart({ by, bins }, word) {
  const isShare = by === "confidence";
  const title = `Accuracy by ${word}`;
  const note = isShare
    ? "Samples in bins of about equal size. On the dotted line accuracy equals confidence."
    : "Samples in bins of about equal size, by their cosine, which is no probability.";
  return chart(title, `${note} Bars are 95 % intervals.`, () => ({
    x: { label: `mean ${word} →`, nice: true, ...(isShare ? { domain: [0, 1] } : {}) },
    y: { ...share, domain: [0, 100], label: "↑ accuracy (%)" },
    marks: [
      Plot.ruleY([0]),
      isShare ? Plot.line([[0, 0], [1, 1]], { stroke: "var(--quiet)", strokeDasharray: "2,4" }) : null,
      Plot.ruleX(bins, { x: "mean", y1: (bin) => bin.ci95[0], y2: (bin) => bin.ci95[1], stroke: "var(--quiet)", strokeWidth: 1.5 }),
      Plot.line(bins, { x: "mean", y: "accuracy", stroke: "var(--accent)", strokeWidth: 2 }),
      Plot.dot(bins, {
        x: "mean", y: "accuracy", fill: "var(--accent)", r: 4,
        title: (bin) => `${word} ${fixed(bin.low)} to ${fixed(bin.high)}\naccuracy ${percent(bin.accuracy)} of ${count(bin.n)}`, tip: tip(),
      }),
    ],
  }));
}

function riskChart(curves, wordOf) {
  const points = curves.flatMap((curve) => curve.coverage.map((coverage, index) => ({ by: wordOf(curve.by), coverage, risk: curve.risk[index] })));
  const areas = curves.map((curve) => `${wordOf(curve.by)} ${percent(curve.area)}`).join(", ");
  return chart("Risk-coverage curve", `The error rate among the most certain samples. Area under the curve: ${areas}.`, () => ({
    x: { percent: true, domain: [0, 100], label: "coverage (%) →" },
    y: { ...share, zero: true, label: "↑ risk: error rate (%)" },
    color: { legend: true, domain: curves.map((curve) => wordOf(curve.by)), range: ["var(--accent)", "var(--wrong)", "var(--right)"] },
    marks: [
      Plot.ruleY([0]),
      // said to be the series: of few points Plot doubts it, and draws a sign of warning
      Plot.lineY(points, { x: "coverage", y: "risk", z: "by", stroke: "by", strokeWidth: 2, curve: "step-after" }),
      points.length <= 60 ? Plot.dot(points, { x: "coverage", y: "risk", fill: "by", r: 2.5 }) : null,
    ],
  }));
}

function histogramChart(histogram) {
  const bars = histogram.counts.map((number, index) => ({ number, low: histogram.edges[index], high: histogram.edges[index + 1] }));
  const show = (value) => (histogram.unit === "USD" ? `$${value.toPrecision(3)}` : `${value.toPrecision(3)} s`);
  const note = `${count(histogram.n)} distinct answers: median ${show(histogram.median)}, 95 % within ${show(histogram.p95)}. The last bar holds all above it.`;
  return chart(histogram.title, note, () => ({
    x: { label: `${histogram.unit} →`, ticks: 5 },
    y: { grid: true, label: "↑ answers", ticks: Math.min(5, d3.max(bars, (bar) => bar.number)), tickFormat: "d" },
    marks: [
      Plot.rectY(bars, { x1: "low", x2: "high", y: "number", fill: "var(--accent)", insetLeft: 0.5, insetRight: 0.5, title: (bar) => `${show(bar.low)} to ${show(bar.high)}: ${count(bar.number)}`, tip: tip() }),
      Plot.ruleY([0]),
      Plot.ruleX([histogram.median], { stroke: "var(--ink)", strokeDasharray: "3,3" }),
    ],
  }));
}

function tip() {
  return { fill: "var(--raised)", stroke: "var(--line)" };
}
