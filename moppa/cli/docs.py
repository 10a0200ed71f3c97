"""Rewrites what the docs say about the configs and the results: moppa docs [--check].

Tables of the methods, with what a step of each costs, and of results/official.csv in README.md and docs/methods.md,
between `<!-- docs NAME -->` and `<!-- end of docs -->`.
What README.md and docs/ quote from the tables in results/tables/ (moppa.report.render.readme).
The number of cells in the opening comments of configs/sweep/ and configs/grid/, as in "4 ranks x 3 seeds = 12 cells".
"""

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moppa.bench.output import memory_text, slowdown
from moppa.cli.errors import prints_errors
from moppa.report.render.readme import quoting_files, updated_text
from moppa.utils.atomic import write_text
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, IS_CHECKOUT, ROOT

GENERATED = re.compile(r"(<!-- docs ([\w-]+) -->\n).*?(<!-- end of docs -->)", re.DOTALL)
CELLS = re.compile(r"\b\d[\w ,]*? = [\d,]+ cells")
SOURCE = re.compile(r"^# Source: (.*?)\.?$", re.MULTILINE)
PAPER = re.compile(r" \(([^()]*?),? arXiv (\d{4}\.\d{5})\)")
FACTS = re.compile(
    r"(?:at most )?([\d,]+) trainable parameters on ViT-B/16 at 224 px, without the head; defined on ([\w, ]+)\."
)
COSTS = ROOT / "results" / "benchmarks" / "methods-vit_tiny_patch16_224-AMD-EPYC.json"
NUM_COLUMNS = 4  # of methods in the README
PLURALS = {"lr": "learning rates", "components": "components", "priors": "sets of priors", "quantize": "bit widths"}


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the opening comment of a method's YAML says."""

    name: str
    summary: str
    authors: str
    arxiv: str
    num_parameters: str  # with "at most" if the number depends on the data
    families: str

    @property
    def address(self) -> str:
        """The address of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def paper(self) -> str:
        """The authors, linked to the paper."""
        return f"[{self.authors}]({self.address})" if self.arxiv else ""


@prints_errors()
def main() -> int:
    """Rewrites the files and prints their paths; with --check, prints them and returns 1 if any would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    is_check = parser.parse_args().check
    if not IS_CHECKOUT:
        raise UserError("moppa docs rewrites a checkout of the repository, and this is an installed package")
    changed = [
        (path, text)
        for path, text in [*updated_pages(), *updated_headers()]
        if path.read_text(encoding="utf-8") != text
    ]
    for path, text in changed:
        print(f"{path.relative_to(ROOT)}{': out of date, run make docs' if is_check else ''}")
        if not is_check:
            write_text(path, text)
    return 1 if is_check and changed else 0


def updated_pages() -> Iterator[tuple[Path, str]]:
    """Yields README.md and the pages in docs/ with what is generated in them as it should be."""
    methods = [read_method(path) for path in sorted((CONFIGS / "method").glob("*.yaml"))]
    methods.sort(key=lambda method: (not method.name.startswith("moppa"), method.name))
    tables = {
        "methods": short_table(methods),
        "methods-in-full": full_table(methods),
        "official": official_table(),
        "grids": grids_table(),
    }
    for path in quoting_files(ROOT):
        text = GENERATED.sub(
            lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", path.read_text(encoding="utf-8")
        )
        yield path, updated_text(text, ROOT / "results" / "tables")


def read_method(path: Path) -> Method:
    """Returns what the opening comment of a method's YAML says.

    Raises:
        UserError: if the comment lacks the sentence about parameters and backbones.
    """
    lines = [line.removeprefix("# ") for line in path.read_text(encoding="utf-8").split("\nname:")[0].splitlines()]
    comment = " ".join(lines)
    facts = FACTS.search(comment)
    if facts is None:
        raise UserError(
            f"{path}: its opening comment lacks the sentence about parameters and backbones; `moppa count "
            f"method={path.stem}` prints it, to be written on one line"
        )
    paper = PAPER.search(comment)
    sentence = re.split(r"\.(?: |$)", PAPER.sub("", comment), maxsplit=1)[0]
    return Method(
        name=path.stem,
        summary=sentence,
        authors=paper[1].split(", ")[0] if paper else "",
        arxiv=paper[2] if paper else "",
        num_parameters=facts[0].split(" trainable")[0],
        families=facts[2].replace(" and ", ", "),
    )


def short_table(methods: list[Method]) -> str:
    """Returns the table of the README, in which the methods run down several columns."""
    names = [f"[`{method.name}`]({method.address})" if method.arxiv else f"`{method.name}`" for method in methods]
    cells = [[name, method.num_parameters] for name, method in zip(names, methods, strict=True)]
    num_rows = -(-len(cells) // NUM_COLUMNS)
    cells += [["", ""]] * (num_rows * NUM_COLUMNS - len(cells))
    rows = [[text for cell in cells[row::num_rows] for text in cell] for row in range(num_rows)]
    return grid(["method", "parameters"] * NUM_COLUMNS, rows)


def full_table(methods: list[Method]) -> str:
    """Returns the table of docs/methods.md."""
    measured = json.loads(COSTS.read_text(encoding="utf-8"))["methods"]
    rows = [
        [
            f"`{method.name}`",
            method.summary,
            method.paper,
            method.num_parameters,
            "yes" if merges(method.name) else "no",
            method.families,
            *cost(measured.get(method.name)),
        ]
        for method in methods
    ]
    columns = ["method", "what it trains", "paper", "parameters", "merges", "backbones", "step / frozen", "memory"]
    return grid(columns, rows)


def cost(measured: Mapping[str, Any] | None) -> list[str]:
    """Returns the time of a method's step over the frozen backbone's, and its memory; dashes if not measured."""
    return ["–", "–"] if measured is None else [f"{slowdown(measured):.2f}", memory_text(measured)]


def official_table() -> str:
    """Returns the table of the comparisons with the authors' code, from `results/official.csv`."""
    with (ROOT / "results" / "official.csv").open(newline="") as file:
        cases = list(csv.DictReader(file))
    names = ("method", "settings", "source", "compared_with", "logits", "input_gradient")
    rows = [[code(case[name]) if name in names[:2] else case[name] for name in names] for case in cases]
    return grid(["method", "settings beside its YAML", "code of", "case", "logits", "input gradient"], rows)


def grids_table() -> str:
    """Returns the table of `configs/grid/`: what each varies, the number of cells, and where the values come from."""
    from omegaconf import OmegaConf

    rows = []
    for path in sorted((CONFIGS / "grid").glob("*.yaml")):
        comment = path.read_text(encoding="utf-8").partition("\ndefaults:")[0]
        params: Any = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params")
        values = [f"`{key.removeprefix('method.attach.')}` {value}" for key, value in params.items()]
        source, cells = SOURCE.search(comment), CELLS.findall(comment)
        rows.append([code(path.stem), "; ".join(values), cells[0].rpartition("= ")[2], source[1] if source else "ours"])
    return grid(["`+grid=`", "values", "size", "source"], rows)


def code(text: str) -> str:
    """Returns a text as code in Markdown, or nothing if there is none."""
    return f"`{text}`" if text else ""


def grid(columns: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def merges(method: str) -> bool:
    """Returns whether a merged model has exactly the tensors of the stock model, shown on a small ViT."""
    import timm
    import torch

    from moppa.peft.inject import merge
    from moppa.peft.method import attach_method
    from moppa.utils.config import compose_config, instantiate

    model: Any = timm.create_model("test_vit", num_classes=2).requires_grad_(False)
    stock = set(model.state_dict())
    images, labels = torch.zeros(2, 3, *model.patch_embed.img_size), torch.arange(2)
    attach_method(
        model,
        instantiate(compose_config([f"method={method}", "task=cifar100"]), "method.attach", _partial_=True),
        generator=torch.Generator().manual_seed(0),
        examples=lambda: [(images, labels)],
    )
    return set(merge(model).state_dict()) == stock


def updated_headers() -> Iterator[tuple[Path, str]]:
    """Yields the YAMLs of sweeps and grids with the number of their cells as it should be."""
    for path in sorted([*(CONFIGS / "sweep").glob("*.yaml"), *(CONFIGS / "grid").glob("*.yaml")]):
        comment, start, rest = path.read_text(encoding="utf-8").partition("\ndefaults:")
        sweep = ["+sweep=tune_common", f"+grid={path.stem}"] if path.parent.name == "grid" else [f"+sweep={path.stem}"]
        if "override /hydra/sweeper" in rest:  # a search, whose cells are not fixed
            continue
        if not CELLS.search(comment):
            raise UserError(f"{path}: its opening comment must contain the number of its cells, as in '= 12 cells'")
        yield path, CELLS.sub(count_text(sweep), comment, count=1) + start + rest


def count_text(overrides: list[str]) -> str:
    """Returns how many cells a sweep has and why, as in "2 ranks x 3 seeds = 6 cells"."""
    from hydra import initialize_config_dir

    from moppa.sweep.expand import expand_overrides

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        combinations = expand_overrides(overrides).combinations
    counts: dict[str, int] = {}
    for choices in zip(*combinations, strict=True):
        counts[choices[0].partition("=")[0].lstrip("+")] = len(set(choices))
    if math.prod(counts.values()) != len(combinations):
        raise UserError(f"{' '.join(overrides)}: its cells are not all combinations of its values")
    counts = {key: counts[key] for key in sorted(counts, key=lambda key: key == "seed")}  # seeds last
    factors = [f"{count} {plural(key)}" for key, count in counts.items() if count > 1]
    return f"{' x '.join(factors)} = {len(combinations)} cells"


def plural(key: str) -> str:
    """Returns the plural of a setting's name, as in "learning rates" for train.lr."""
    name = key.rpartition(".")[2]
    if name.startswith("num_"):
        return f"numbers of {name.removeprefix('num_')}"
    return PLURALS.get(name, f"{name.replace('_', ' ')}s")


if __name__ == "__main__":
    sys.exit(main())
