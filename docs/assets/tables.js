// Tables inside <div class="sortable">: a click on a title sorts, and typing above filters the rows.
"use strict";

/** The number that a cell begins with ("91.35 ± 0.42" is 91.35), or null. */
function leadingNumber(text) {
  const found = text.replaceAll(",", "").match(/^[+-]?\d+(\.\d+)?(?=$|\s)/);
  return found ? Number(found[0]) : null;
}

/** Orders two cells: numbers by size, text by the alphabet, empty ones always last. */
function compareCells(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [leadingNumber(a), leadingNumber(b)];
  if (x !== null && y !== null) return sign * (x - y);
  return sign * a.localeCompare(b, "en", { numeric: true });
}

/** Sorts the rows of a table by a column; a second click turns the order round. */
function sortBy(table, column) {
  const titles = [...table.tHead.rows[0].cells];
  const ascending = titles[column].getAttribute("aria-sort") !== "ascending";
  titles.forEach((title) => title.removeAttribute("aria-sort"));
  titles[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compareCells(text(a), text(b), ascending ? 1 : -1));
  table.tBodies[0].append(...rows);
}

/** Shows the rows in which every word occurs, and says how many there are. */
function filterBy(table, words, count) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
  count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

/** Makes the titles of a table buttons, and puts a field to filter by above it. */
function makeSortable(box) {
  const table = box.querySelector("table");
  [...table.tHead.rows[0].cells].forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    title.append(button);
  });
  const bar = document.createElement("div");
  const field = document.createElement("input");
  const count = document.createElement("span");
  bar.className = "filter";
  field.type = "search";
  field.placeholder = "Filter the rows";
  field.setAttribute("aria-label", "Filter the rows");
  count.setAttribute("role", "status");
  field.addEventListener("input", () => filterBy(table, field.value, count));
  bar.append(field, count);
  box.prepend(bar);
  filterBy(table, "", count);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".sortable").forEach(makeSortable);
});
