"""Writes the page `results/report/merging.html` with the tables and charts of merged models."""

import base64
from collections.abc import Sequence
from pathlib import Path

from moppa.report.merge_files import cell, scale_text, table_notes
from moppa.report.merging import TABLES, MergeTable
from moppa.report.plots.figure_files import CONFIG, number_ids
from moppa.report.plots.merging import merge_charts
from moppa.report.render.latex_html import environment
from moppa.utils.atomic import atomic_write

NAME = "merging.html"


def write_merge_page(tables: Sequence[MergeTable], folder: Path) -> list[Path]:
    """Writes the page and returns its path; nothing without tables."""
    if not tables:
        return []
    page = environment().get_template("merging.html")
    path = folder / NAME
    with atomic_write(path) as temporary:
        text = page.render(
            tables=tables,
            heading=table_heading,
            cell=cell,
            scale=scale_text,
            charts=draw_charts,
            notes=table_notes([row for table in tables for row in table.rows]),
        )
        temporary.write_text(text, encoding="utf-8")
    return [path]


def page_links(tables: Sequence[MergeTable]) -> dict[str, str]:
    """Returns the address of every table of the page, from a page beside it, by the table's heading."""
    return {table_heading(table): f"{NAME}#{table.name}" for table in tables}


def table_heading(table: MergeTable) -> str:
    """Returns the heading of a table on the page."""
    return f"{table.suite}, {table.backbone}: {TABLES[table.head]}"


def draw_charts(table: MergeTable) -> list[str]:
    """Returns the charts of a table as addresses of images, so that the ids inside of two charts do not collide."""
    from vl_convert import vegalite_to_svg

    charts = [number_ids(vegalite_to_svg(spec, config=CONFIG)) for spec in merge_charts(table).values()]
    return [f"data:image/svg+xml;base64,{base64.b64encode(chart.encode()).decode('ascii')}" for chart in charts]
