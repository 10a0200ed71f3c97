"use strict";
// Text reaches the page through textContent alone, so that what a record says stays text.
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const element = (name, text, attributes = {}) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const unpacked = (async () => {
  const bytes = Uint8Array.from(atob(find("#data").textContent), (sign) => sign.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(plain).text());
})();

const section = () => find("section:not([hidden])");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// The rows that are shown.
function filter() {
  if (!section()) return;
  const asked = find("#filter").value.trim().toLowerCase();
  const rows = all("tbody tr", section());
  for (const row of rows) {
    row.hidden =
      !row.dataset.name.toLowerCase().includes(asked) ||
      (row.classList.contains("published") && !find("#published").checked) ||
      (!row.classList.contains("whole") && find("#whole").checked);
  }
  find("#count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

// Numbers from high to low first, names from A to Z first; what is missing is last either way.
function sort(button) {
  const head = button.closest("th");
  const column = Number(button.dataset.sort);
  const before = head.getAttribute("aria-sort");
  const isUp = column === 0 ? before !== "ascending" : before === "descending";
  for (const other of all("th[aria-sort]", section())) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  const body = find("tbody", section());
  const value = (row) => (column === 0 ? row.dataset.name : Number(row.children[column].dataset.v ?? NaN));
  const keyed = [...body.rows].map((row) => [value(row), row]);
  const sign = isUp ? 1 : -1;
  keyed.sort(([one], [other]) => {
    if (column === 0) return sign * one.localeCompare(other);
    if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
    return sign * (one - other);
  });
  body.append(...keyed.map(([, row]) => row));
}

// Arrow keys go from cell to cell.
function walk(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("tbody td");
  if (!step || !from) return;
  const rows = all("tbody tr:not([hidden])", section());
  let [row, column] = [rows.indexOf(from.parentElement), from.cellIndex];
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

const theme = () => ({
  actions: false,
  renderer: "svg",
  theme: isDark() ? "dark" : undefined,
  config: {
    background: "transparent",
    font: "system-ui, sans-serif",
    axis: { gridColor: isDark() ? "#33373f" : "#e4e7ec" },
  },
});

async function drawCharts() {
  const place = section() && find(".charts", section());
  if (!place) return;
  place.replaceChildren();
  const { charts } = (await unpacked).tables[Number(section().dataset.table)];
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      vegaEmbed(find("div", target), charts[target.dataset.chart], theme());
    }
  }, { rootMargin: "300px" });
  for (const title of Object.keys(charts)) {
    const figure = element("figure", undefined, { "data-chart": title });
    figure.append(element("figcaption", title), element("div"));
    place.append(figure);
    seen.observe(figure);
  }
}

function grid(head, lines, name = "") {
  const table = element("table", undefined, name ? { class: name } : {});
  const top = table.createTHead().insertRow();
  for (const title of head) top.append(element("th", title, { scope: "col" }));
  const body = table.createTBody();
  for (const line of lines) {
    const row = body.insertRow();
    line.forEach((text, at) => row.append(at ? element("td", text) : element("th", text, { scope: "row" })));
  }
  return table;
}

function confusion(counts) {
  const most = Math.max(...counts.flat());
  const table = grid(["label \\ predicted", ...counts.keys()], counts.map((row, label) => [label, ...row]), "matrix");
  for (const cell of all("td", table)) {
    const share = Number(cell.textContent) / most;
    cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(70 * share)}%, transparent)`;
  }
  return table;
}

function curve(seeds) {
  const values = seeds.flatMap((one) => one.curve.map(([epoch, loss]) => ({ seed: one.seed, epoch, loss })));
  return {
    width: 300, height: 220, data: { values }, mark: { type: "line", tooltip: true },
    encoding: {
      x: { field: "epoch", type: "quantitative" },
      y: { field: "loss", type: "quantitative", scale: { type: "log" }, title: "training loss" },
      color: { field: "seed", type: "nominal" },
    },
  };
}

async function open(button) {
  const { tables, parts } = await unpacked;
  const table = tables[Number(section().dataset.table)];
  const [row, task] = button.dataset.cell.split(" ");
  const cell = table.cells[button.dataset.cell];
  const config = Object.fromEntries(Object.entries(cell.config).map(([name, part]) => [name, parts[part]]));
  find("#cell-title").textContent = `${table.rows[Number(row)]}, ${table.columns[task]}`;
  const percent = (one) => `${((100 * one.correct) / one.total).toFixed(2)} %`;
  const seeds = cell.seeds.map((one) => [
    one.seed, `${one.correct} of ${one.total}`, percent(one), `${one.seconds} s`, `${one.memory} MiB`, one.device, one.dtype,
    one.commit,
  ]);
  const facts = [
    ["split", `${cell.split.verdict}, lineage ${cell.split.lineage}`],
    ["95% interval", cell.interval ? `${cell.interval[0]} to ${cell.interval[1]} %` : "no predictions kept"],
    ["settings", cell.tuned ? `the best of ${cell.tuned.num_settings} on val200 (${(100 * cell.tuned.val200).toFixed(1)} %)` : "as given"],
    ["parameters", `${cell.params[0].toLocaleString("en")} and ${cell.params[1].toLocaleString("en")} of the head`],
    ["weights", `${cell.weights.name}, sha256 ${cell.weights.sha256}`],
    ["key", cell.key],
    ["first record", cell.place],
  ];
  const details = element("details");
  details.append(element("summary", "config"), element("pre", JSON.stringify({ ...config, preprocess: cell.preprocess }, null, 2)));
  const pair = element("div", undefined, { class: "pair" });
  const plot = element("div", undefined, { class: "curve" });
  pair.append(plot);
  if (cell.confusion) pair.append(confusion(cell.confusion));
  find("#cell-body").replaceChildren(
    grid(["seed", "right", "accuracy", "training", "memory", "device", "dtype", "commit"], seeds),
    grid(["", ""], facts, "facts"), pair, details,
  );
  find("#cell").showModal();
  if (cell.seeds.some((one) => one.curve.length)) await vegaEmbed(plot, curve(cell.seeds), theme());
}

function show(index) {
  for (const one of all("section")) one.hidden = one.dataset.table !== index;
  filter();
  drawCharts();
}

function paint(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("theme", chosen); } catch { /* a browser may forbid it; the choice then lasts a visit */ }
}

try { find("#theme").value = localStorage.getItem("theme") ?? "auto"; } catch { /* as above */ }
paint(find("#theme").value);
find("#theme").addEventListener("change", (event) => { paint(event.target.value); drawCharts(); });
find("#table").addEventListener("change", (event) => show(event.target.value));
for (const name of ["#filter", "#published", "#whole"]) find(name).addEventListener("input", filter);
document.addEventListener("keydown", walk);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.sort !== undefined) sort(button);
  if (button?.dataset.cell !== undefined) open(button);
});
filter();
drawCharts().then(() => { document.documentElement.dataset.ready = "yes"; });
