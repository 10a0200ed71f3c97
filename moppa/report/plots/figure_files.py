"""Writes charts as PNG and SVG files; the same specification gives the same bytes."""

import re
from pathlib import Path

from moppa.report.plots.encodings import Spec
from moppa.utils.atomic import atomic_write

# vl-convert brings Liberation Sans, so that a figure does not depend on the fonts of a machine.
CONFIG = {"background": "white", "padding": 8, "font": "Liberation Sans, Arial, Helvetica, sans-serif"}
SVG_ID = re.compile(r'(?P<before>id="|url\(#)(?P<kind>gradient_|clip)(?P<number>\d+)')
PIXELS_PER_POINT = 2


def write_figure(spec: Spec, path: Path) -> list[Path]:
    """Writes `PATH.png` and `PATH.svg` and returns the two paths."""
    from vl_convert import vegalite_to_png, vegalite_to_svg

    contents = {
        "png": vegalite_to_png(spec, scale=PIXELS_PER_POINT, config=CONFIG),
        "svg": number_ids(vegalite_to_svg(spec, config=CONFIG)).encode("utf-8"),
    }
    written = []
    for suffix, content in contents.items():
        target = path.with_name(f"{path.name}.{suffix}")
        with atomic_write(target) as temporary:
            temporary.write_bytes(content)
        written.append(target)
    return written


def remove_figure(path: Path) -> None:
    """Deletes the files of a figure that cannot be drawn any more."""
    for suffix in ("png", "svg"):
        path.with_name(f"{path.name}.{suffix}").unlink(missing_ok=True)


def number_ids(svg: str) -> str:
    """Numbers the ids of an SVG from 0 in order of appearance; vl-convert counts on from one chart to the next."""
    numbers: dict[str, int] = {}

    def renumber(match: re.Match[str]) -> str:
        number = numbers.setdefault(match["kind"] + match["number"], len(numbers))
        return f"{match['before']}{match['kind']}{number}"

    return SVG_ID.sub(renumber, svg)
