"use strict";
// Keeps table, filter and check boxes in the address, so that a link shows the same rows.
function saveState() {
  const state = new URLSearchParams();
  state.set("table", find("#table").selectedOptions[0].textContent);
  if (find("#filter").value) state.set("filter", find("#filter").value);
  if (!find("#show-published").checked) state.set("published", "no");
  if (find("#only-complete").checked) state.set("complete", "yes");
  const sorted = currentSection() && find("th[aria-sort]", currentSection());
  if (sorted) state.set("sort", `${find("button", sorted).dataset.column} ${sorted.getAttribute("aria-sort")}`);
  for (const axis of ["x", "y"]) if (axes[axis]) state.set(axis, axes[axis]);
  history.replaceState(null, "", `#${state}`);
}

function restoreState() {
  const state = new URLSearchParams(location.hash.slice(1));
  const option = findAll("#table option").find((candidate) => candidate.textContent === state.get("table"));
  if (option) find("#table").value = option.value;
  find("#filter").value = state.get("filter") ?? "";
  find("#show-published").checked = state.get("published") !== "no";
  find("#only-complete").checked = state.get("complete") === "yes";
  for (const axis of ["x", "y"]) axes[axis] = state.get(axis);
  return state.get("sort");
}

// Sorts as the address says: a column, and its order.
function restoreSort(sort) {
  const [column, order] = (sort ?? "").split(" ");
  const button = currentSection() && column && find(`thead button[data-column="${CSS.escape(column)}"]`, currentSection());
  if (!button) return;
  sortRows(button);
  if (button.closest("th").getAttribute("aria-sort") !== order) sortRows(button);
}
