"""Draws the figures in results/figures/ from the records and the published rows, as PNG and SVG.

    python scripts/figures.py [RESULTS] [--baseline ROW]

The tables of protocol `final` are drawn with the charts of the page, and the tune records of composed methods with
their Pareto front. A figure that cannot be drawn is named with the
reason, and its files from before are deleted.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from moppa.cli.errors import prints_errors
from moppa.report import published
from moppa.report.build import list_excluded, no_records, read_tables
from moppa.report.columns import suite_columns
from moppa.report.comparison import baselines, without_baseline
from moppa.report.load import load_records
from moppa.report.merging import MergeTable, merge_tables, read_merges
from moppa.report.plots.charts import CHARTS, ROUTE_CHARTS
from moppa.report.plots.data import PlotData, plot_data, published_plot_data
from moppa.report.plots.encodings import Spec
from moppa.report.plots.figure_files import remove_figure, write_figure
from moppa.report.plots.merging import merge_charts
from moppa.report.plots.routes import read_routes
from moppa.report.plots.search import pareto_chart, searches
from moppa.report.table import Table
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT, user_path

PUBLISHED_BASELINE = "LoRA"


@prints_errors()
def main() -> int:
    """Prints the path of each figure; returns 1 if a record or row is wrong and 3 if records were excluded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="?", type=user_path, default=ROOT / "results", help="the folder of the results"
    )
    parser.add_argument(
        "--baseline",
        metavar="ROW",
        help="name or method of the row that the heat map compares with (default, and for a table without it: the row "
        "with the fewest parameters)",
    )
    args = parser.parse_args()
    tables, excluded = read_tables(args.results, CONFIGS)
    names = baselines(drawn_tables(tables), args.baseline)
    print(without_baseline(names, args.baseline), end="", file=sys.stderr)
    figures = [*table_figures(tables, names), *published_figures(args.results / "published.csv")]
    merges, excluded_merges = read_merges(args.results)
    figures += [*merge_figures(merge_tables(merges)), *search_figures(args.results)]
    excluded += excluded_merges
    if not figures and not tables:
        raise no_records(args.results)
    for name, spec in figures:
        try:
            paths = write_figure(spec(), args.results / "figures" / name)
        except UserError as error:
            print(f"not drawn: {name}: {error}")
            remove_figure(args.results / "figures" / name)
            continue
        print(*paths, sep="\n")
    print(list_excluded(excluded, args.results), end="", file=sys.stderr)
    return 3 if excluded else 0


def drawn_tables(tables: list[Table]) -> list[Table]:
    """Returns the tables that have figures."""
    return [table for table in tables if table.protocol == "final" and table.rows]


def table_figures(tables: list[Table], baselines: Mapping[str, str | None]) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the name of each figure of each table and the function that returns its specification."""
    for table in drawn_tables(tables):
        data = plot_data(table, baselines[table.name])
        if data is None:
            print(f"not drawn: {table.name}: its rows share no task")
            continue
        yield from chart_figures(table.name, data)
        yield from route_figures(table)


def chart_figures(prefix: str, data: PlotData) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the charts of rows; those that need records only if there are records."""
    for chart in CHARTS:
        if data.rows or not chart.needs_records:
            yield f"{prefix}-{chart.name}", partial(chart.spec, data)


def route_figures(table: Table) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the mixing weights and impulse responses of the first cell of each row whose method mixes priors."""
    for row in table.rows:
        record = row.records[0]
        try:
            routes = read_routes(record.path)
        except UserError:
            continue
        prefix = f"{table.name}-{record['method']}-{record['key']}-{record['task']}"
        title = f"{table.title}; {row.name}, {record['task']}, seed {record['seed']}"
        for name, chart in ROUTE_CHARTS.items():
            yield f"{prefix}-{name}", partial(chart, {row.name: routes}, title)


def merge_figures(tables: Sequence[MergeTable]) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the charts of merged models, with the heads of the experts."""
    for table in tables:
        if table.head == "trained_head":
            for name, spec in merge_charts(table).items():
                yield f"{table.name}-{name}", partial(dict, spec)


def search_figures(results: Path) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the chart of each search over composed methods, from the tune records."""
    for search in searches(load_records(results)[0]):
        yield search.name, partial(pareto_chart, search)


def published_figures(path: Path) -> Iterator[tuple[str, Callable[[], Spec]]]:
    """Yields the charts of the published rows that were tuned on val200 and evaluated after the last epoch."""
    rows_by_suite = published.load(path, CONFIGS)
    for suite, rows in rows_by_suite.items():
        data = published_plot_data(rows, suite_columns(suite, CONFIGS), PUBLISHED_BASELINE)
        if data is not None:
            yield from chart_figures("published" if len(rows_by_suite) == 1 else f"published-{suite}", data)


if __name__ == "__main__":
    sys.exit(main())
