"""What the search for a cell's settings and its training could use: rows are ranked only if they had the same."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moppa.report.load import ValidRecord

GIVEN = 1  # settings tried, if they were given: how they were found is unknown


class Budget(NamedTuple):
    """Image size in pixels, epochs, number of settings that were tried on val200, and images of an epoch (0: all)."""

    image_size: int
    epochs: int
    settings_tried: int
    epoch_images: int = 0


def cell_budget(records: Iterable[ValidRecord]) -> Budget:
    """Returns the budget of a cell. If only some of its seeds were tuned, the number of settings is theirs."""
    records = list(records)
    tried = [(record.content.get("tuned") or {}).get("num_settings", GIVEN) for record in records]
    first, train = records[0], records[0]["config"]["train"]
    return Budget(
        first["preprocess"].get("size", 0), train.get("epochs", 0), max(tried), train.get("epoch_images") or 0
    )


def budget_fact(budgets: Sequence[Sequence[Budget]]) -> str:
    """Returns the sentence that says in what the rows' budgets differ on some task; empty if they do not.

    Args:
        budgets: those of the rows, for each task.
    """
    names = ("image size", "epochs", "settings tried", "images of an epoch")
    differing = [
        f"{name} {number_range(values)}"
        for index, name in enumerate(names)
        if any(len({budget[index] for budget in of_task}) > 1 for of_task in budgets)
        for values in [[budget[index] for of_task in budgets for budget in of_task]]
    ]
    return f"The rows had unequal budgets ({'; '.join(differing)}): nothing is marked where they differ" * bool(
        differing
    )


def number_range(values: Iterable[int]) -> str:
    """Returns a number, or the smallest and the largest of several."""
    smallest, largest = min(values := list(values)), max(values)
    return str(smallest) if smallest == largest else f"{smallest} to {largest}"
