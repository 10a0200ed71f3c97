"""What was published of a method, beside our row of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moppa.report import published
from moppa.report.columns import Column, task_groups
from moppa.report.load import ValidRecord
from moppa.report.published import Published
from moppa.report.rows import RowRecords

PUBLISHED_SIZE = 224  # pixels: published rows stand beside ours at this size only


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published mean of groups, what makes it incomparable, and by how many points ours exceeds it."""

    mean: float
    flags: str
    deviation: float | None


def published_rows(one: ValidRecord, columns: Sequence[Column], file: Path) -> list[Published]:
    """The published rows of a record's suite and pretraining; none at another image size or on val200."""
    if one["protocol"] != "final" or one["config"]["backbone"]["image_size"] != PUBLISHED_SIZE:
        return []
    if one["suite"] != "vtab1k":
        return []
    return published.for_checkpoint(published.load(file, task_groups(list(columns))), one["config"]["backbone"]["timm"])


def counterparts(setting: RowRecords, others: Sequence[Published]) -> dict[str, Published]:
    """A method's own published row, and the one that was tuned on val200 and read after the last epoch."""
    found = {
        "paper": published.paper_row(others, setting.method),
        "tuned": published.honest_row(others, setting.method),
    }
    return {name: row for name, row in found.items() if row is not None}


def compare_with(other: Published, ours: float | None, setting: RowRecords) -> Reference:
    """A published mean of groups beside ours."""
    mean = float(other.mean_of_groups or 0)
    checkpoint = setting.records[0]["config"]["backbone"]["timm"]
    return Reference(mean=mean, flags=other.flags(checkpoint), deviation=None if ours is None else ours - mean)
