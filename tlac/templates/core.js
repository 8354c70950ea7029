"use strict";
/* What every page stands on: its content, elements made of text, images, pages of a list.
   Text from outside becomes a text node or an attribute value, never markup. */

const page = JSON.parse(document.getElementById("content").textContent);

/* An element: `settings` are properties, or attributes where the name has a dash; children are elements or text. */
function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.includes("-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/* Text from outside, kept from changing the direction of what stands around it. */
function outside(text, className = "") {
  return make("bdi", { className, textContent: text });
}

/* Text from outside for places that hold text alone (options, chart labels): no direction marks, cut to length. */
function label(text, most = 60) {
  const plain = text.replace(/[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " ");
  return plain.length > most ? plain.slice(0, most - 1) + "…" : plain;
}

/* A share as "85.0 %". Only all and none are 100.0 and 0.0: 9,998 of 10,000 are 99.98. */
function percent(share, places = 1) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  const text = (100 * share).toFixed(places);
  if (share !== 0 && share !== 1 && places < 6 && [0, 100].includes(Number(text))) return percent(share, places + 1);
  return `${text}\u00a0%`;
}
const money = (value) => `$${Number(value.toPrecision(3))}`;
/* A time as "0.56 s", "3 min 20 s" or "2 h 5 min". */
function seconds(value) {
  if (value < 60) return `${Number(value.toPrecision(3))} s`;
  const minutes = Math.floor(Math.round(value) / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(value) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
const count = (number) => number.toLocaleString("en");
const fixed = (number, places = 3) => (number === null || number === undefined ? "–" : number.toFixed(places));

/* A bar from 0 to 1. */
function meter(share) {
  return make("span", { className: "meter", "--share": share.toFixed(4) }, make("i"));
}

/* The picture of a sample, by its number among the page's images. */
function picture(number, alt) {
  const { inline, beside, folder } = page.images;
  if (number < 0) return make("span", { textContent: "no thumbnail" });
  const source =
    number < inline.length
      ? `data:image/webp;base64,${inline[number]}`
      : `${encodeURIComponent(folder)}/${encodeURIComponent(beside[number - inline.length])}`;
  return make("img", { loading: "lazy", decoding: "async", alt, src: source });
}

/* A link to the image itself, where it was on this disk beside the report. */
function original(number) {
  const path = page.images.originals[number];
  if (!path) return null;
  return make("a", { href: `./${path.split("/").map(encodeURIComponent).join("/")}`, target: "_blank", textContent: "Open the image" });
}

/* Buttons to turn the pages of a list; `show(start, end)` draws one of them. */
class Pager {
  constructor(size, show) {
    this.size = size;
    this.show = show;
    this.total = 0;
    this.number = 0;
    this.before = make("button", { type: "button", textContent: "← Back", onclick: () => this.turn(-1) });
    this.after = make("button", { type: "button", textContent: "Next →", onclick: () => this.turn(1) });
    this.place = make("span", { className: "quiet", role: "status" });
    this.element = make("div", { className: "pager" }, this.before, this.place, this.after);
  }

  reset(total) {
    this.total = total;
    this.open(0);
  }

  turn(step) {
    this.open(this.number + step);
  }

  open(number) {
    const pages = Math.max(1, Math.ceil(this.total / this.size));
    this.number = Math.min(Math.max(number, 0), pages - 1);
    const start = this.number * this.size;
    const end = Math.min(start + this.size, this.total);
    this.before.disabled = this.number === 0;
    this.after.disabled = this.number === pages - 1;
    this.before.hidden = this.after.hidden = pages === 1;
    this.place.textContent = this.total ? `${count(start + 1)}–${count(end)} of ${count(this.total)}` : "none";
    this.show(start, end);
  }
}

function select(title, options, onchange) {
  const list = make("select", { onchange, "aria-label": title });
  list.append(...options.map(([value, text]) => make("option", { value, textContent: text })));
  return { list, element: make("label", {}, title, list) };
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
