"""Draws results/figures/ from records and published rows: python scripts/figures.py [RESULTS] [--baseline ROW].

PNG and SVG. Tables of protocol final are drawn; what cannot be drawn of one is said with the reason.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from moppa.errors import UserError
from moppa.report import drawing, figures, published
from moppa.report.compare import baseline_of
from moppa.report.routes import blocks_told, responses, routes
from moppa.report.shown import Shown, shown_of, shown_published
from moppa.report.suite import columns_of, groups_of
from moppa.report.table import Table
from moppa.report.write import named, read_tables

ROOT = Path(__file__).parent.parent


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
        tables, left_out = read_tables(asked.results, ROOT / "configs")
        for name, draw in [*ours(tables, asked.baseline), *theirs(asked.results / "published.csv")]:
            try:
                written = drawing.save(draw(), out / name)
            except UserError as error:
                print(f"not drawn: {name}: {error}")
                continue
            print(*written, sep="\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(named(left_out, asked.results), end="", file=sys.stderr)
    return 3 if left_out else 0


def ours(tables: list[Table], baseline: str | None) -> Iterator[tuple[str, Any]]:
    """The name of every picture of every table, and what draws it."""
    for table in tables:
        if table.protocol != "final" or not table.rows:
            continue
        if (shown := shown_of(table)) is None:
            print(f"not drawn: {table.name}: its rows share no task")
            continue
        names = set(shown.accuracies.index)
        base = baseline_of(table, baseline).name
        yield from of_rows(table.name, shown, base if base in names else next(iter(shown.accuracies.index)))
        yield f"{table.name}-learning-curves", partial(figures.learning_curves, shown)
        yield f"{table.name}-cost", partial(figures.cost, shown)
        yield from of_units(table)


def of_rows(name: str, shown: Shown, baseline: str) -> Iterator[tuple[str, Any]]:
    """The pictures that need accuracies alone."""
    yield f"{name}-parameters", partial(figures.accuracy_against_parameters, shown)
    yield f"{name}-heat-map", partial(figures.heat_map, shown, baseline)
    yield f"{name}-groups", partial(figures.group_bars, shown)
    yield f"{name}-critical-difference", partial(figures.critical_difference, shown)


def of_units(table: Table) -> Iterator[tuple[str, Any]]:
    """The routes and responses of the first cell of every row whose units told of them."""
    for row in table.rows:
        one = row.setting.records[0]
        try:
            told = blocks_told(one.path)
        except UserError:
            continue
        priors = one["config"]["method"]["attach"]["priors"]
        name = f"{table.name}-{one['method']}-{one['key']}-{one['task']}"
        yield f"{name}-routes", partial(routes, told, priors)
        yield f"{name}-responses", partial(responses, told)


def theirs(file: Path) -> Iterator[tuple[str, Any]]:
    """The pictures of the published rows that were tuned on val200 and read after the last epoch."""
    columns = columns_of("vtab1k", ROOT / "configs")
    shown = shown_published(published.load(file, groups_of(columns)), columns)
    if shown is not None:
        yield from of_rows("published", shown, "LoRA")


if __name__ == "__main__":
    sys.exit(main())
