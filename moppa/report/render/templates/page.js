// Text from records is set with textContent only, so that it is never parsed as markup.
const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
const createElement = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const pageData = (async () => {
  const packed = await fetch(`data:application/gzip;base64,${find("#data").textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).json();
})();

const currentSection = () => find("section:not([hidden])");
const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// Shows the rows that match the filter and the check boxes.
function filterRows() {
  if (!currentSection()) return;
  const query = find("#filter").value.trim().toLowerCase();
  const rows = findAll("tbody tr", currentSection());
  for (const row of rows) {
    row.hidden =
      !row.dataset.name.toLowerCase().includes(query) ||
      (row.classList.contains("published") && !find("#show-published").checked) ||
      (!row.classList.contains("complete") && find("#only-complete").checked);
  }
  saveState();
  find("#row-count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

// Returns the text of a cell without links.
const textOf = (cell) => [...cell.childNodes].filter((node) => !node.classList?.contains("link")).map((node) => node.textContent).join("").trim();

// Downloads the shown rows of the current table.
function downloadCsv() {
  const isFormula = (text) => /^[=+@-]/.test(text) && Number.isNaN(Number(text));
  const plain = (text) => (isFormula(text) ? `'${text}` : text);
  const quoted = (cell) => `"${plain(textOf(cell)).replaceAll('"', '""')}"`;
  const rows = [find("thead tr:last-child", currentSection()), ...findAll("tbody tr:not([hidden])", currentSection())];
  const text = rows.map((row) => [...row.children].map(quoted).join(",")).join("\n");
  const link = createElement("a", undefined, { download: "table.csv" });
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

// Returns a chart with the data of some rows only. A baseline that is not among them is replaced by the first.
function withRows(node, names) {
  if (Array.isArray(node)) return node.filter((entry) => !entry?.row || names.has(entry.row)).map((entry) => withRows(entry, names));
  if (node === null || typeof node !== "object") return node;
  const chart = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, withRows(value, names)]));
  if (chart.name === "baseline" && !names.has(chart.value)) chart.value = [...names][0];
  return chart;
}

// Sorts the rows by a column. The first click sorts numbers in descending and names in ascending order. Missing numbers
// are last in both orders.
function sortRows(button) {
  const header = button.closest("th");
  const column = Number(button.dataset.column);
  const previous = header.getAttribute("aria-sort");
  const isAscending = column === 0 ? previous !== "ascending" : previous === "descending";
  for (const sorted of findAll("th[aria-sort]", currentSection())) sorted.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  const body = find("tbody", currentSection());
  const valueOf = (row) => (column === 0 ? row.dataset.name : Number(row.children[column].dataset.value ?? NaN));
  const sign = isAscending ? 1 : -1;
  const keyedRows = [...body.rows].map((row) => [valueOf(row), row]);
  keyedRows.sort(([left], [right]) => {
    if (column === 0) return sign * left.localeCompare(right);
    if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
    return sign * (left - right);
  });
  body.append(...keyedRows.map(([, row]) => row));
  saveState();
}

// Moves the focus with the arrow keys to the next cell that has records.
function moveFocus(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const start = event.target.closest("tbody td");
  if (!step || !start) return;
  const rows = findAll("tbody tr:not([hidden])", currentSection());
  let [row, column] = [rows.indexOf(start.parentElement), start.cellIndex];
  for (;;) {
    row += step[0];
    column += step[1];
    const cell = rows[row]?.children[column];
    if (!cell || column < 1) return;
    const button = find("button", cell);
    if (button) {
      event.preventDefault();
      button.focus();
      return;
    }
  }
}

const embedOptions = () => ({
  actions: false,
  renderer: "svg",
  theme: isDark() ? "dark" : undefined,
  config: {
    background: "transparent",
    font: "system-ui, sans-serif",
    axis: { gridColor: isDark() ? "#33373f" : "#e4e7ec" },
    rule: { color: isDark() ? "#e6e8ec" : "#16181d" },
    text: { color: isDark() ? "#e6e8ec" : "#16181d" },
  },
});

let chartLibrary; // a promise: the library is loaded with the first chart, because it is larger than most pages

// Draws a chart into an element.
async function drawChart(element, spec) {
  chartLibrary ??= new Promise((resolve, reject) => {
    const script = createElement("script", undefined, { src: "vega.js" });
    script.addEventListener("load", resolve);
    script.addEventListener("error", reject);
    document.head.append(script);
  });
  await chartLibrary;
  return vegaEmbed(element, spec, embedOptions());
}

// Adds the charts of the current table; each is drawn when it is scrolled into view.
async function drawCharts() {
  const container = currentSection() && find(".charts", currentSection());
  if (!container) return;
  container.replaceChildren();
  const { charts } = (await pageData).tables[Number(currentSection().dataset.table)];
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      if ("scatter" in target.dataset) {
        drawScatter(target);
        continue;
      }
      const chart = charts[target.dataset.chart];
      const isOurs = !target.dataset.chart.endsWith("published rows");
      drawChart(find("div", target), isOurs ? withRows(chart, new Set(shown)) : chart);
    }
  }, { rootMargin: "300px" });
  const shown = findAll("tbody tr:not([hidden]):not(.published)", currentSection()).map((row) => row.dataset.name);
  for (const heading of Object.keys(charts)) {
    const isPublished = heading.endsWith("published rows");
    if (isPublished ? !find("#show-published").checked : !shown.length) continue;
    const figure = createElement("figure", undefined, { "data-chart": heading });
    figure.append(createElement("figcaption", heading), createElement("div"));
    container.append(figure);
    observer.observe(figure);
  }
  const scatter = createElement("figure", undefined, { "data-scatter": "" });
  container.append(scatter);
  observer.observe(scatter);
}

function createTable(titles, lines, className = "") {
  const table = createElement("table", undefined, className ? { class: className } : {});
  const headerRow = table.createTHead().insertRow();
  for (const title of titles) headerRow.append(createElement("th", title, { scope: "col" }));
  const body = table.createTBody();
  for (const line of lines) {
    const row = body.insertRow();
    line.forEach((text, index) => {
      row.append(index ? createElement("td", text) : createElement("th", text, { scope: "row" }));
    });
  }
  return table;
}

function confusionMatrix(counts, classes) {
  const largest = Math.max(...counts.flat());
  const names = classes ?? [...counts.keys()];
  const lines = counts.map((row, label) => [names[label], ...row]);
  const table = createTable(["label \\ predicted", ...names], lines, classes ? "confusion named" : "confusion");
  for (const cell of findAll("td", table)) {
    const share = Number(cell.textContent) / largest;
    cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(70 * share)}%, transparent)`;
  }
  return table;
}

function learningCurve(seeds) {
  const values = seeds.flatMap(({ seed, curve }) => curve.map(([epoch, loss]) => ({ seed, epoch, loss })));
  return {
    width: 300, height: 220, data: { values }, mark: { type: "line", tooltip: true },
    encoding: {
      x: { field: "epoch", type: "quantitative", axis: { tickMinStep: 1, format: "d" } },
      y: { field: "loss", type: "quantitative", scale: { type: "log" }, title: "training loss" },
      color: { field: "seed", type: "nominal" },
    },
  };
}

function seedTable(seeds) {
  const lines = seeds.map((seed) => [
    seed.seed, `${seed.correct} of ${seed.total}`, `${seed.accuracy} %`, seed.time, seed.memory, seed.device,
    seed.dtype, seed.commit,
  ]);
  const titles = ["seed", "correct", "accuracy", "training time", "peak memory", "device", "dtype", "commit"];
  return createTable(titles, lines);
}

function factTable(cell) {
  const [trainable, head] = cell.params.map((count) => count.toLocaleString("en"));
  return createTable(["", ""], [
    ["split check", `${cell.split.verdict}, lineage ${cell.split.lineage}`],
    ["95% interval", cell.interval ?? "unknown: no predictions are kept"],
    ["settings", cell.settings],
    ["trainable parameters", `${trainable}, plus ${head} in the head`],
    ["weights", `${cell.weights.name}, sha256 ${cell.weights.sha256}`],
    ["key", cell.key],
    ["first record", cell.path],
  ], "facts");
}

// Opens the dialog with the records of a cell.
async function openCell(button) {
  const { tables, configs } = await pageData;
  const table = tables[Number(currentSection().dataset.table)];
  const [row, task] = button.dataset.cell.split(" ");
  const cell = table.cells[button.dataset.cell];
  const config = Object.fromEntries(Object.entries(cell.config).map(([name, index]) => [name, configs[index]]));
  find("#cell-title").textContent = `${table.rows[Number(row)]}, ${table.columns[task]}`;
  const details = createElement("details");
  details.append(
    createElement("summary", "config"),
    createElement("pre", JSON.stringify({ ...config, preprocess: cell.preprocess }, null, 2)),
  );
  const panels = createElement("div", undefined, { class: "panels" });
  const curve = createElement("div", undefined, { class: "curve" });
  panels.append(curve);
  if (cell.confusion) panels.append(confusionMatrix(cell.confusion, cell.classes));
  find("#cell-body").replaceChildren(seedTable(cell.seeds), factTable(cell), panels, details);
  find("#cell").showModal();
  if (cell.seeds.some((seed) => seed.curve.length)) {
    await drawChart(curve, learningCurve(cell.seeds));
  }
}

function showTable(index) {
  for (const section of findAll("section")) section.hidden = section.dataset.table !== index;
  filterRows();
  drawCharts();
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* some browsers forbid it: the choice is then not stored */ }
}

try { find("#theme").value = localStorage.getItem("theme") ?? "auto"; } catch { /* as above */ }
setTheme(find("#theme").value);
find("#theme").addEventListener("change", (event) => { setTheme(event.target.value); drawCharts(); });
find("#table").addEventListener("change", (event) => showTable(event.target.value));
for (const selector of ["#filter", "#show-published", "#only-complete"]) {
  find(selector).addEventListener("input", () => { filterRows(); drawCharts(); });
}
document.addEventListener("keydown", moveFocus);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.column !== undefined) sortRows(button);
  if (button?.dataset.cell !== undefined) openCell(button);
});
find("#csv").addEventListener("click", downloadCsv);
const savedSort = restoreState();
for (const section of findAll("section")) section.hidden = section.dataset.table !== find("#table").value;
restoreSort(savedSort);
filterRows();
drawCharts().then(() => { document.documentElement.dataset.ready = "yes"; });
