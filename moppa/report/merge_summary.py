"""One table over the experts of all methods: the normalized accuracy of every algorithm, with both kinds of heads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from moppa.report.merge_files import cell
from moppa.report.merging import READS_IMAGES, MergeRow, MergeTable
from moppa.report.render.markdown import escape_markdown, grid
from moppa.report.table_files import write_formats

METRIC = "normalized"


@dataclass(frozen=True)
class MergeSummary:
    """The tables of one suite and backbone: that with the heads of the experts, and that with fitted heads."""

    trained: MergeTable
    fitted: MergeTable

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.trained.name}-summary"

    @property
    def methods(self) -> list[str]:
        """The methods of the experts."""
        return list(dict.fromkeys(row.method for row in self.trained.complete_rows))

    @property
    def algorithms(self) -> list[str]:
        """References first, then the algorithms, the best on average over the methods first."""
        found: dict[str, list[MergeRow]] = {}
        for row in self.trained.complete_rows:
            if row.algorithm != "experts":
                found.setdefault(row.algorithm, []).append(row)

        def order(name: str) -> tuple[bool, Fraction, str]:
            values = [row.mean(METRIC) or Fraction(0) for row in found[name]]
            return found[name][0].kind != "reference", -sum(values, Fraction(0)) / len(values), name

        return sorted(found, key=order)


def render_summary(summary: MergeSummary) -> str:
    """Returns the table with its title and caption, as Markdown."""
    tables = {"": summary.trained, ", fitted": summary.fitted}
    rows = {
        (row.algorithm, f"{row.method}{suffix}"): row for suffix, table in tables.items() for row in table.complete_rows
    }
    titles = [f"{method}{suffix}" for suffix in tables for method in summary.methods]
    marks = {row.algorithm: row.mark for row in rows.values()}
    cells = [
        [
            f"{name}{marks[name]}",
            *(cell(rows[name, title], METRIC) if (name, title) in rows else "" for title in titles),
        ]
        for name in summary.algorithms
    ]
    table = summary.trained
    lines = [
        f"# Merged models: {escape_markdown(table.suite)}, {escape_markdown(table.backbone)}, all methods",
        f"Accuracy divided by that of the expert, mean over {table.complete_rows[0].num_tasks} tasks, in percent. "
        "Columns name the method of the experts: first with their own heads, then with heads fitted again.",
        grid(["algorithm", *map(escape_markdown, titles)], cells),
        "- Mean ± standard deviation over the seeds of the experts, and over draws of masks or orders.\n"
        f"- {escape_markdown(READS_IMAGES)} reads training images.",
    ]
    return "\n\n".join(lines) + "\n"


def write_summaries(tables: Sequence[MergeTable], results: Path) -> list[Path]:
    """Writes results/tables/merge-SUITE-BACKBONE-summary.md and returns the paths."""
    return [path for summary in summaries(tables) for path in write_formats(summary, {"md": render_summary}, results)]


def summaries(tables: Iterable[MergeTable]) -> list[MergeSummary]:
    """Returns a summary of every suite and backbone."""
    pairs: dict[tuple[str, str], dict[str, MergeTable]] = {}
    for table in tables:
        pairs.setdefault((table.suite, table.backbone), {})[table.head] = table
    return [MergeSummary(pair["trained_head"], pair["fitted_head"]) for pair in pairs.values()]
