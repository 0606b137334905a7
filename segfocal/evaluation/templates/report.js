"use strict";
// Sorting: a click on a column's button, or Enter and Space on it.
for (const table of document.querySelectorAll("table.classes")) {
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), column = head.cellIndex;
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = row => parseFloat(row.cells[column].dataset.v);
      const unknown = row => Number.isNaN(value(row));
      const rows = [...body.rows].sort((one, other) =>
        unknown(one) - unknown(other) || (rising ? 1 : -1) * (value(one) - value(other)) || 0);
      body.append(...rows);
    });
  }
}
// The matrix: what a cell means, on hover, tap and focus; the arrow keys move.
for (const table of document.querySelectorAll("table.matrix")) {
  const told = document.getElementById("cell");
  const names = [...table.tHead.rows[0].querySelectorAll("th")].map(head => head.textContent);
  const rows = [...table.tBodies[0].rows].map(row => [...row.querySelectorAll("td")]);
  const grouped = number => String(number).replace(/\B(?=(\d{3})+$)/g, "\u00a0");
  const isolated = name => "\u2068" + name + "\u2069";
  const tell = (row, column) => {
    const cell = rows[row][column], pixels = Number(cell.dataset.n);
    const whole = Number(cell.parentNode.dataset.total);
    const share = whole ? (100 * pixels / whole).toFixed(pixels && pixels < 0.1 * whole ? 2 : 1) + " %" : "–";
    const verdict = row === column ? " were called so, which is right." : " were called " + isolated(names[column]) + ".";
    const true_name = isolated(cell.parentNode.querySelector("th").textContent);
    told.textContent = share + " of the pixels of " + true_name + " (" + grouped(pixels) + " of " + grouped(whole) + ")" + verdict;
  };
  rows.forEach((cells, row) => cells.forEach((cell, column) => {
    cell.tabIndex = row + column ? -1 : 0;
    cell.addEventListener("mouseenter", () => tell(row, column));
    cell.addEventListener("focus", () => tell(row, column));
    cell.addEventListener("keydown", event => {
      const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
      const next = step && rows[row + step[0]] && rows[row + step[0]][column + step[1]];
      if (!step) return;
      event.preventDefault();
      if (next) { cell.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    });
  }));
}
