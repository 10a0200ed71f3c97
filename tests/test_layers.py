"""One way through the house: a file imports only files of a lower rank, or beside it in `SIDEWAYS`."""

import ast

import pytest

from tests.conftest import ROOT

RANKS = {
    "moppa": 9,
    "moppa.errors": 0,
    "moppa.check": 0,
    "moppa.files": 0,
    "moppa.progress": 0,
    "moppa.seeds": 0,
    "moppa.stop": 0,
    "moppa.log": 0,
    "moppa.physics": 0,
    "moppa.solver": 0,
    "moppa.products": 0,
    "moppa.touch": 0,
    "moppa.places": 0,
    "moppa.linears": 0,
    "moppa.lean": 0,
    "moppa.machine": 0,
    "moppa.provenance": 0,
    "moppa.micro": 0,
    "moppa.mini": 0,
    "moppa.mini.draws": 0,
    "moppa.mini.canvas": 0,
    "moppa.mini.digits": 0,
    "moppa.mini.textures": 1,
    "moppa.mini.spots": 1,
    "moppa.mini.terrain": 1,
    "moppa.mini.sprites": 1,
    "moppa.mini.shapes": 1,
    "moppa.weights": 1,
    "moppa.checkpoint": 1,
    "moppa.configured": 0,
    "moppa.data": 0,
    "moppa.data.labels": 0,
    "moppa.mixture": 1,
    "moppa.adapter": 3,
    "moppa.data.archive": 0,
    "moppa.data.images": 0,
    "moppa.data.task": 1,
    "moppa.data.tfds": 1,
    "moppa.data.noah": 2,
    "moppa.data.folder": 2,
    "moppa.data.mini": 2,
    "baselines": 1,
    "moppa.data.need": 1,
    "moppa.data.journal": 1,
    "moppa.data.fetch": 1,
    "moppa.data.part": 2,
    "moppa.data.prepare": 2,
    "moppa.data.store": 2,
    "moppa.data.noah_jpeg": 3,
    "moppa.data.choice": 3,
    "moppa.data.survey": 3,
    "moppa.backbone": 2,
    "moppa.pretrain": 2,
    "moppa.pretrain.images": 1,
    "moppa.pretrain.objectives": 1,
    "moppa.pretrain.weights": 1,
    "moppa.pretrain.teacher": 2,
    "moppa.pretrain.loop": 2,
    "moppa.pretrain.probe": 3,
    "moppa.train": 3,
    "moppa.evaluate": 3,
    "moppa.features": 4,
    "moppa.record_file": 1,
    "moppa.record": 4,
    "moppa.claim": 0,
    "moppa.attempt": 5,
    "moppa.tuning": 5,
    "moppa.export": 5,
    "moppa.sweep": 5,
    "moppa.sweep.cells": 6,
    "moppa.sweep.cost": 6,
    "moppa.sweep.state": 6,
    "moppa.bench": 6,
    "moppa.bench.rates": 6,
    "moppa.bench.cell": 6,
    "moppa.bench.steps": 7,
    "moppa.bench.against": 8,
    "moppa.sweep.grid": 7,
    "moppa.sweep.plan": 8,
    "moppa.report": 5,
    "moppa.report.stats": 5,
    "moppa.report.ranks": 5,
    "moppa.report.suite": 5,
    "moppa.report.published": 5,
    "moppa.report.records": 5,
    "moppa.report.routes": 5,
    "moppa.report.rows": 6,
    "moppa.report.noise": 6,
    "moppa.report.values": 6,
    "moppa.report.beside": 6,
    "moppa.report.table": 6,
    "moppa.report.documents": 6,
    "moppa.report.drawing": 5,
    "moppa.report.chart": 6,
    "moppa.report.training_charts": 6,
    "moppa.report.formats": 6,
    "moppa.report.terminal": 6,
    "moppa.report.quoted": 7,
    "moppa.report.write": 6,
    "moppa.report.compare": 6,
    "moppa.report.shown": 6,
    "moppa.report.figures": 6,
    "moppa.report.charts": 6,
    "moppa.report.page": 6,
    "moppa.demo": 7,
    "scripts": 9,
    "run": 9,
}
# The tools at the bottom use each other, a source needs the task it reads for, and the store writes what it reads.
FOUNDATION = {name for name, rank in RANKS.items() if rank == 0}
SIDEWAYS = {
    ("moppa.data.tfds", "moppa.data.task"),
    ("moppa.data.need", "moppa.data.task"),
    ("moppa.data.fetch", "moppa.data.task"),
    ("moppa.data.fetch", "moppa.data.need"),
    ("moppa.data.tfds", "moppa.data.fetch"),
    # The report's own line: rows -> table -> formats -> files; table -> compare -> shown -> figures, charts -> page.
    ("moppa.report.beside", "moppa.report.rows"),
    ("moppa.report.table", "moppa.report.beside"),
    ("moppa.report.table", "moppa.report.noise"),
    ("moppa.report.table", "moppa.report.rows"),
    ("moppa.report.table", "moppa.report.values"),
    ("moppa.report.values", "moppa.report.rows"),
    ("moppa.report.values", "moppa.report.noise"),
    ("moppa.report.formats", "moppa.report.table"),
    ("moppa.report.formats", "moppa.report.values"),
    ("moppa.report.documents", "moppa.report.table"),
    ("moppa.report.documents", "moppa.report.formats"),
    ("moppa.report.write", "moppa.report.documents"),
    ("moppa.report.chart", "moppa.report.shown"),
    ("moppa.report.charts", "moppa.report.chart"),
    ("moppa.report.charts", "moppa.report.training_charts"),
    ("moppa.report.training_charts", "moppa.report.chart"),
    ("moppa.report.training_charts", "moppa.report.shown"),
    ("moppa.report.page", "moppa.report.documents"),
    ("moppa.report.terminal", "moppa.report.table"),
    ("moppa.report.terminal", "moppa.report.formats"),
    ("moppa.report.write", "moppa.report.table"),
    ("moppa.report.write", "moppa.report.formats"),
    ("moppa.report.compare", "moppa.report.table"),
    ("moppa.report.compare", "moppa.report.noise"),
    ("moppa.report.compare", "moppa.report.formats"),
    ("moppa.report.shown", "moppa.report.rows"),
    ("moppa.report.shown", "moppa.report.table"),
    ("moppa.report.shown", "moppa.report.noise"),
    ("moppa.report.shown", "moppa.report.compare"),
    ("moppa.report.figures", "moppa.report.shown"),
    ("moppa.report.charts", "moppa.report.shown"),
    ("moppa.report.charts", "moppa.report.figures"),
    ("moppa.report.page", "moppa.report.charts"),
    ("moppa.report.page", "moppa.report.compare"),
    ("moppa.report.page", "moppa.report.formats"),
    ("moppa.report.page", "moppa.report.noise"),
    ("moppa.report.page", "moppa.report.shown"),
    ("moppa.report.page", "moppa.report.table"),
    ("moppa.data.prepare", "moppa.data.part"),
    ("moppa.data.store", "moppa.data.part"),
    ("moppa.data.store", "moppa.data.prepare"),
}
FILES = sorted(
    path.relative_to(ROOT)
    for path in [
        *(ROOT / "moppa").rglob("*.py"),
        *(ROOT / "baselines").glob("*.py"),
        *(ROOT / "scripts").glob("*.py"),
        ROOT / "run.py",
    ]
)


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def rank_of(module):
    return RANKS[module if module in RANKS else module.partition(".")[0]]


def imports_of(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in RANKS else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_what_stands_below_it(path):
    module = module_of(path)
    assert module in RANKS or module.partition(".")[0] in {"baselines", "scripts"}, f"give {module} a rank"
    ours = [name for name in imports_of(path) if name.partition(".")[0] in {"moppa", "baselines", "scripts", "run"}]
    above = [
        name
        for name in ours
        if rank_of(name) >= rank_of(module) and (module, name) not in SIDEWAYS and not {module, name} <= FOUNDATION
    ]
    assert not above


def test_the_package_does_not_know_the_baselines_and_the_trainer_no_method():
    for path in (ROOT / "moppa").rglob("*.py"):
        assert not [name for name in imports_of(path.relative_to(ROOT)) if name.startswith("baselines")], path
    for room in (
        "train",
        "evaluate",
        "record",
        "report/table",
        "report/rows",
        "report/values",
        "report/noise",
        "report/formats",
        "report/page",
    ):
        text = (ROOT / "moppa" / f"{room}.py").read_text()
        assert not [method for method in ("lora", "mixture", "vpt", "adapter") if method in text.lower()], room
