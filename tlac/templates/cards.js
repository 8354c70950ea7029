"use strict";
/* One sample as a card of the gallery, and opened in full. */

/* Pages of cards: `draw(sample)` gives a card's content, `detail(sample)` the opened card's {title, parts}. */
class CardList {
  constructor(size, draw, detail) {
    this.samples = [];
    this.draw = draw;
    this.detail = detail;
    this.list = make("ul", { className: "cards" });
    this.pager = new Pager(size, (start, end) => this.show(start, end));
    this.element = make("div", {}, this.list, this.pager.element);
    this.dialog = document.getElementById("card");
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  fill(samples) {
    this.samples = samples;
    this.pager.reset(samples.length);
  }

  show(start, end) {
    const cards = this.samples.slice(start, end).map((sample, place) => {
      const { className, parts } = this.draw(sample);
      return make("li", {}, make("button", { type: "button", className: `card ${className}`, onclick: () => this.open(start + place) }, ...parts));
    });
    this.list.replaceChildren(...cards);
  }

  step(step) {
    const place = this.place + step;
    if (place >= 0 && place < this.samples.length) this.open(place);
  }

  open(place) {
    this.place = place;
    this.present(this.detail(this.samples[place]), place > 0, place < this.samples.length - 1);
  }

  /* A sample that may be outside the filtered list, such as one from the list of failures. */
  openAlone(sample) {
    this.place = -2;
    this.present(this.detail(sample), false, false);
  }

  present({ title, parts }, hasBefore, hasAfter) {
    const head = make(
      "div",
      { className: "card-head" },
      make("h2", { id: "card-title" }, outside(title, "clip")),
      make("button", { type: "button", textContent: "←", "aria-label": "Previous sample", disabled: !hasBefore, onclick: () => this.step(-1) }),
      make("button", { type: "button", textContent: "→", "aria-label": "Next sample", disabled: !hasAfter, onclick: () => this.step(1) }),
      make("button", { type: "button", textContent: "✕", "aria-label": "Close", onclick: () => this.dialog.close() }),
    );
    this.dialog.replaceChildren(head, make("div", { className: "card-body" }, ...parts));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
  }
}

const verdicts = {
  correct: { mark: "✓", className: "right" },
  wrong: { mark: "✗", className: "wrong" },
  "no answer": { mark: "–", className: "none" },
  unlabelled: { mark: "?", className: "none" },
};

/* A class or what stands in its place, with the mark of the verdict. */
function verdictLine(verdict, text) {
  const { mark, className } = verdicts[verdict];
  return make("span", { className: `${className} clip` }, `${mark} `, outside(text));
}

function factList(pairs) {
  return make("dl", {}, ...pairs.filter(([, value]) => value !== null).map(([title, value]) => make("div", {}, make("dt", { textContent: title }), make("dd", {}, value))));
}

function quote(title, text) {
  return text === null ? null : make("div", {}, make("h3", { textContent: title }), make("blockquote", {}, outside(text)));
}

function ranking(top, predicted, truth) {
  if (!top.length) return null;
  const rows = top.map(([index, score]) => {
    const mark = index === truth ? "right" : index === predicted ? "wrong" : "";
    return make("li", {}, outside(page.classes[index], `clip ${mark}`), meter(Math.max(0, score)), make("span", { className: "number", textContent: fixed(score) }));
  });
  return make("div", {}, make("h3", { textContent: `Best ${top.length} by score` }), make("ol", { className: "ranks" }, ...rows));
}
