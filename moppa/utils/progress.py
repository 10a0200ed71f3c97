"""The progress bar of every command. It is drawn on standard error, so that a pipe gets results alone."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(*, is_shown: bool = True) -> Progress:
    """Returns a bar with counts, elapsed and remaining time, and a text field `note`, which every task must set."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not is_shown,
    )
