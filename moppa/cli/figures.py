"""Draws results/figures/ from records and published rows: python scripts/figures.py [RESULTS] [--baseline ROW].

PNG and SVG. Tables of protocol final are drawn; what cannot be drawn of one is said with the reason.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from moppa.report import published
from moppa.report.build import list_excluded, read_tables
from moppa.report.columns import suite_columns, task_groups
from moppa.report.plots import static, style
from moppa.report.plots.data import PlotData, plot_data, published_plot_data
from moppa.report.plots.routes import blocks_with_routes, responses, routes
from moppa.report.render.comparison import baseline_of
from moppa.report.table import Table
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT


def main() -> int:
    """Prints the path of every picture; 1 where a record or a row is wrong, 3 where records were left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results")
    parser.add_argument(
        "--baseline", help="the row, by name or method, that the heat map compares with; the smallest if not said"
    )
    asked = parser.parse_args()
    out = asked.results / "figures"
    try:
        tables, left_out = read_tables(asked.results, CONFIGS)
        for name, draw in [*ours(tables, asked.baseline), *theirs(asked.results / "published.csv")]:
            try:
                written = style.save(draw(), out / name)
            except UserError as error:
                print(f"not drawn: {name}: {error}")
                continue
            print(*written, sep="\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(list_excluded(left_out, asked.results), end="", file=sys.stderr)
    return 3 if left_out else 0


def ours(tables: list[Table], baseline: str | None) -> Iterator[tuple[str, Any]]:
    """The name of every picture of every table, and what draws it."""
    for table in tables:
        if table.protocol != "final" or not table.rows:
            continue
        if (shown := plot_data(table)) is None:
            print(f"not drawn: {table.name}: its rows share no task")
            continue
        names = set(shown.accuracies.index)
        base = baseline_of(table, baseline).name
        yield from of_rows(table.name, shown, base if base in names else next(iter(shown.accuracies.index)))
        yield f"{table.name}-learning-curves", partial(static.learning_curves, shown)
        yield f"{table.name}-cost", partial(static.cost, shown)
        yield from of_units(table)


def of_rows(name: str, shown: PlotData, baseline: str) -> Iterator[tuple[str, Any]]:
    """The pictures that need accuracies alone."""
    yield f"{name}-parameters", partial(static.accuracy_against_parameters, shown)
    yield f"{name}-heat-map", partial(static.heat_map, shown, baseline)
    yield f"{name}-groups", partial(static.group_bars, shown)
    yield f"{name}-critical-difference", partial(static.critical_difference, shown)


def of_units(table: Table) -> Iterator[tuple[str, Any]]:
    """The routes and responses of the first cell of every row whose units told of them."""
    for row in table.rows:
        one = row.setting.records[0]
        try:
            told = blocks_with_routes(one.path)
        except UserError:
            continue
        priors = one["config"]["method"]["attach"]["priors"]
        name = f"{table.name}-{one['method']}-{one['key']}-{one['task']}"
        yield f"{name}-routes", partial(routes, told, priors)
        yield f"{name}-responses", partial(responses, told)


def theirs(file: Path) -> Iterator[tuple[str, Any]]:
    """The pictures of the published rows that were tuned on val200 and read after the last epoch."""
    columns = suite_columns("vtab1k", CONFIGS)
    shown = published_plot_data(published.load(file, task_groups(columns)), columns)
    if shown is not None:
        yield from of_rows("published", shown, "LoRA")


if __name__ == "__main__":
    sys.exit(main())
