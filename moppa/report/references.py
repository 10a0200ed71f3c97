"""The published means that are shown beside a row of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from moppa.report import published
from moppa.report.load import ValidRecord
from moppa.report.published import Published
from moppa.report.rows import RowRecords

PUBLISHED_SIZE = 224  # pixels: published rows are comparable with ours at this image size only


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published mean of groups, its flags, and our mean minus it, in points; None if our row is incomplete."""

    mean: Fraction
    flags: str
    deviation: Fraction | None


def published_rows(record: ValidRecord, file: Path, configs: Path) -> list[Published]:
    """Returns the published rows of a record's suite and pretraining; none at other image sizes or protocols."""
    if record["protocol"] != "final" or record["config"]["backbone"]["image_size"] != PUBLISHED_SIZE:
        return []
    rows = published.load(file, configs).get(record["suite"], [])
    return published.same_pretraining(rows, record["config"]["backbone"]["timm"])


def find_references(row: RowRecords, mean: Fraction | None, rows: Sequence[Published]) -> dict[str, Reference]:
    """Returns what a method's paper prints (`paper`) and what was tuned on val200 (`tuned`), compared with our mean.

    A recipe that reproduces a published row is compared with that row in place of the paper's.
    """
    aim = row.records[0]["config"]["train"].get("published")
    published_by_name = {
        "paper": published.named_row(rows, aim) if aim else published.paper_row(rows, row.method),
        "tuned": published.val_tuned_row(rows, row.method),
    }
    checkpoint = row.records[0]["config"]["backbone"]["timm"]
    references = {}
    for name, other in published_by_name.items():
        if other is not None and (other_mean := other.mean_of_groups) is not None:
            deviation = None if mean is None else mean - other_mean
            references[name] = Reference(mean=other_mean, flags=other.flags(checkpoint), deviation=deviation)
    return references
