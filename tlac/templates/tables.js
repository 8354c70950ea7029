"use strict";
/* A table of many rows: sorted by a click on a heading, filtered by a word, one page at a time. */

class SortedTable {
  /* columns: {title, value(row) to sort by, show(row) as element or text, isNumber, className} */
  constructor(columns, rows, { size = 25, sortBy = 0, isFalling = true, textOf = null, word = "Find" } = {}) {
    this.columns = columns;
    this.rows = rows;
    this.shown = rows;
    this.sortBy = sortBy;
    this.isFalling = isFalling;
    this.body = make("tbody");
    this.headings = columns.map((column, index) =>
      make(
        "th",
        { scope: "col", className: `${column.isNumber ? "number" : ""} ${column.className ?? ""}` },
        make("button", { type: "button", onclick: () => this.sort(index) }, column.title, make("span", { ariaHidden: "true" })),
      ),
    );
    this.pager = new Pager(size, (start, end) => this.draw(start, end));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...this.headings)), this.body);
    this.element = make("div", {}, make("div", { className: "scroll" }, table), this.pager.element);
    if (textOf && rows.length > size) this.element.prepend(this.search(textOf, word));
    this.order();
  }

  search(textOf, word) {
    const field = make("input", { type: "search" });
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      this.shown = this.rows.filter((row) => textOf(row).toLowerCase().includes(wanted));
      this.order();
    });
    return make("div", { className: "controls" }, make("label", { className: "find" }, word, field));
  }

  sort(index) {
    this.isFalling = this.sortBy === index ? !this.isFalling : Boolean(this.columns[index].isNumber);
    this.sortBy = index;
    this.order();
  }

  order() {
    const { value } = this.columns[this.sortBy];
    const sign = this.isFalling ? -1 : 1;
    this.shown = [...this.shown].sort((a, b) => {
      const [first, second] = [value(a), value(b)];
      // what has no value stands last in both directions
      if (first === null || second === null) return (first === null) - (second === null);
      return sign * (typeof first === "string" ? first.localeCompare(second) : first - second);
    });
    this.headings.forEach((heading, index) => {
      const isSorted = index === this.sortBy;
      if (isSorted) heading.setAttribute("aria-sort", this.isFalling ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
      heading.querySelector("span").textContent = isSorted ? (this.isFalling ? " ↓" : " ↑") : "";
    });
    this.pager.reset(this.shown.length);
  }

  draw(start, end) {
    const rows = this.shown.slice(start, end).map((row) =>
      make(
        "tr",
        {},
        ...this.columns.map((column) =>
          make("td", { className: `${column.isNumber ? "number" : ""} ${column.className ?? ""}` }, column.show(row)),
        ),
      ),
    );
    this.body.replaceChildren(...rows);
  }
}
