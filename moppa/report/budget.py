"""What the search for a cell's settings and its training could use: rows are ranked only if they had the same."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moppa.report.load import ValidRecord

GIVEN = 1  # settings tried, if they were given: how they were found is unknown


class Budget(NamedTuple):
    """The image size in pixels, the epochs, and the number of settings that were tried on val200."""

    image_size: int
    epochs: int
    settings_tried: int


def cell_budget(records: Iterable[ValidRecord]) -> Budget:
    """Returns the budget of a cell. If only some of its seeds were tuned, the number of settings is theirs."""
    records = list(records)
    tried = [(record.content.get("tuned") or {}).get("num_settings", GIVEN) for record in records]
    first = records[0]
    return Budget(first["preprocess"].get("size", 0), first["config"]["train"].get("epochs", 0), max(tried))


def budget_fact(budgets: Sequence[Sequence[Budget]]) -> str:
    """Returns the sentence that says in what the rows' budgets differ on some task; empty if they do not.

    Args:
        budgets: those of the rows, for each task.
    """
    names = ("image size", "epochs", "settings tried")
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
