"""What the page says of a method and of a task besides their numbers: paper, code, and names of classes."""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.utils.paths import IS_CHECKOUT

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
TARGET = re.compile(r"_target_: ([\w.]+)\.\w+$", re.MULTILINE)
CLASS_NAMES = Path(__file__).parent / "class_names.csv"


def method_links(method: str, configs: Path) -> dict[str, str]:
    """Returns the addresses of a method's paper and, in a checkout, of its code as seen from `results/report/`."""
    path = configs / "method" / f"{method}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    paper, target = ARXIV.search(text.partition("\nname:")[0]), TARGET.search(text)
    links = {"paper": f"https://arxiv.org/abs/{paper[1]}"} if paper else {}
    if target and IS_CHECKOUT:
        links["code"] = f"../../{target[1].replace('.', '/')}.py"
    return links


def class_names(config: Mapping[str, Any], split: Mapping[str, Any]) -> Sequence[str] | None:
    """Returns the names of the classes of a record's config and splits in the order of their labels, if known."""
    task = config["task"]
    named = split.get("classes") or config["data"].get("classes")
    names = named or known_names().get((task["suite"], task["name"]))
    return [str(name) for name in names] if names and len(names) == task["num_classes"] else None


@lru_cache
def known_names() -> Mapping[tuple[str, str], list[str]]:
    """Returns the names of classes by suite and task, from `class_names.csv`."""
    with CLASS_NAMES.open(encoding="utf-8", newline="") as file:
        return {(line["suite"], line["task"]): line["names"].split("|") for line in csv.DictReader(file)}
