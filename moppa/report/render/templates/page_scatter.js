// A chart of any two quantities of the shown rows: the columns of the table, training time and peak memory.
const COSTS = { "training time (s)": "time", "peak memory (MiB)": "memory" };
const MAX_LABELS = 24; // more would cover each other: the pointer then shows a name
const axes = { x: null, y: null }; // the chosen quantities, which the address keeps

// Returns each cost of each row, averaged over its cells and seeds.
function meanCosts(table) {
  const seedsByRow = new Map();
  for (const [name, cell] of Object.entries(table.cells)) {
    const row = table.rows[parseInt(name, 10)];
    seedsByRow.set(row, [...(seedsByRow.get(row) ?? []), ...cell.seeds]);
  }
  const meanOf = (seeds, field) => seeds.reduce((sum, seed) => sum + parseFloat(seed[field]), 0) / seeds.length;
  const costOf = (field) => new Map([...seedsByRow].map(([row, seeds]) => [row, meanOf(seeds, field)]));
  return Object.fromEntries(Object.entries(COSTS).map(([title, field]) => [title, costOf(field)]));
}

// Returns the quantities of the current table, each with its value by row, for those that two rows have.
function quantities(section, table) {
  const rows = findAll("tbody tr", section).filter((row) => !row.hidden);
  const found = new Map();
  findAll("thead tr:last-child th", section).forEach((header, column) => {
    if (column === 0) return;
    const title = header.textContent.trim();
    const unit = title.endsWith("(M)") ? 1e6 : 1;
    found.set(title, rows.map((row) => Number(row.children[column].dataset.value ?? NaN) / unit));
  });
  const costs = meanCosts(table);
  for (const title of Object.keys(COSTS)) found.set(title, rows.map((row) => costs[title].get(row.dataset.name) ?? NaN));
  for (const [title, values] of found) {
    if (values.filter(Number.isFinite).length < 2) found.delete(title);
  }
  return { names: rows.map((row) => row.dataset.name), found };
}

function scatterSpec(width, names, x, y, [xTitle, yTitle]) {
  const values = names
    .map((row, index) => ({ name: row, x: x[index], y: y[index] }))
    .filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  if (!values.length) return null;
  const numbers = values.map((point) => point.x);
  const isWide = Math.min(...numbers) > 0 && Math.max(...numbers) > 20 * Math.min(...numbers);
  const position = {
    x: { field: "x", type: "quantitative", title: xTitle, scale: { type: isWide ? "log" : "linear", zero: false, nice: false, padding: 30 } },
    y: { field: "y", type: "quantitative", title: yTitle, scale: { zero: false, padding: 20 } },
  };
  return {
    width, height: 360, data: { values },
    layer: [
      { mark: { type: "point", filled: true, size: 60 }, encoding: { ...position, tooltip: [{ field: "name" }, { field: "x", title: xTitle }, { field: "y", title: yTitle }] } },
      ...(values.length > MAX_LABELS ? [] : [{ mark: { type: "text", align: "left", dx: 7, limit: 150, fontSize: 10 }, encoding: { ...position, text: { field: "name" } } }]),
    ],
  };
}

// Draws the chart with its two menus into a figure.
async function drawScatter(figure) {
  const section = currentSection();
  const { names, found } = quantities(section, (await pageData).tables[Number(section.dataset.table)]);
  const titles = [...found.keys()];
  if (titles.length < 2) {
    figure.remove();
    return;
  }
  if (!found.has(axes.x)) axes.x = titles.find((title) => title.startsWith("Parameters")) ?? titles[0];
  if (!found.has(axes.y)) axes.y = titles.find((title) => title.startsWith("Mean of") && title !== axes.x) ?? titles.find((title) => title !== axes.x);
  const caption = createElement("figcaption", "Any two quantities ");
  const drawing = createElement("div");
  const draw = () => {
    const spec = scatterSpec(Math.min(560, figure.parentElement.clientWidth - 90), names, found.get(axes.x), found.get(axes.y), [axes.x, axes.y]);
    if (spec) drawChart(drawing, spec);
    else drawing.replaceChildren("No row has both.");
  };
  for (const axis of ["y", "x"]) {
    const select = createElement("select", undefined, { "aria-label": `quantity on the ${axis} axis`, "data-axis": axis });
    for (const title of titles) select.append(createElement("option", title));
    select.value = axes[axis];
    select.addEventListener("change", () => { axes[axis] = select.value; saveState(); draw(); });
    caption.append(select, axis === "y" ? " against " : "");
  }
  figure.append(caption, drawing);
  draw();
}
