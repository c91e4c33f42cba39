// The map: what is under the pointer or in focus is told below it; arrow keys move.
for (const figure of document.querySelectorAll("figure")) {
  const rows = [...figure.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll(".cell")]);
  const detail = figure.querySelector(".detail");
  const tell = (event) => {
    const cell = event.target.closest(".cell");
    if (cell) detail.textContent = cell.title;
  };
  figure.addEventListener("pointerover", tell);
  figure.addEventListener("focusin", tell);

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const find = (cell) => {
    const row = rows.findIndex((cells) => cells.includes(cell));
    return [row, row < 0 ? -1 : rows[row].indexOf(cell)];
  };
  figure.addEventListener("keydown", (event) => {
    const [row, column] = find(event.target);
    if (row < 0) return;
    const last = rows[row].length - 1;
    const ends = { Home: rows[row][0], End: rows[row][last] };
    const [down, right] = steps[event.key] ?? [0, 0];
    const next = ends[event.key] ?? rows[row + down]?.[column + right];
    if (!next || next === event.target) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  for (const cells of rows) for (const cell of cells) cell.tabIndex = -1;
  if (rows[0]?.[0]) rows[0][0].tabIndex = 0;
}
