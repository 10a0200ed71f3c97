"""Tables as files, one of each format."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moppa.utils.atomic import write_text


def write_formats(table: Any, formats: Mapping[str, Callable[[Any], str]], results: Path) -> list[Path]:
    """Writes results/tables/NAME.SUFFIX, with the text that the function of its suffix returns; returns the paths."""
    paths = {results / "tables" / f"{table.name}.{suffix}": render for suffix, render in formats.items()}
    for path, render in paths.items():
        write_text(path, render(table))
    return list(paths)
