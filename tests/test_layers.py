"""Imports flow one way: a folder imports only folders that stand before it, and no folder has a cycle inside."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import ROOT

# The first folder imports nothing of ours; folders on one line do not import each other.
ORDER = [
    ["moppa.utils"],
    ["moppa.data", "moppa.peft"],
    ["moppa.backbone", "moppa.mixture", "baselines"],
    ["moppa.train", "moppa.pretrain"],
    ["moppa.record"],
    ["moppa.sweep", "moppa.merging", "moppa.report"],
    ["moppa.bench", "moppa.continual", "moppa.demo", "moppa.export"],
    ["moppa.cli"],
    ["run"],
    ["scripts"],
]
RANK = {folder: rank for rank, folders in enumerate(ORDER) for folder in folders}
FILES = sorted([*(ROOT / "moppa").rglob("*.py"), *(ROOT / "baselines").glob("*.py"), *(ROOT / "scripts").glob("*.py")])
FILES.append(ROOT / "run.py")
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def folder_of(module):
    """The entry of ORDER that a module belongs to; the package's own `__init__` belongs to none."""
    parts = module.split(".")
    return next((name for name in (".".join(parts[:2]), parts[0]) if name in RANK), None)


def imports_of(module):
    """The modules of ours that a module imports, at any depth of its code."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def ours(module):
    return sorted({name for name in imports_of(module) if name in MODULES})


@pytest.mark.parametrize("module", [name for name in MODULES if name != "moppa"])
def test_a_module_imports_only_its_own_folder_and_folders_before_it(module):
    own = folder_of(module)
    assert own is not None, f"{module} is in no folder of ORDER"
    for name in ours(module):
        if (other := folder_of(name)) is not None and other != own:
            assert RANK[other] < RANK[own], f"{module} imports {name}"


@pytest.mark.parametrize("folder", RANK)
def test_no_folder_has_an_import_cycle(folder):
    inside = {name for name in MODULES if folder_of(name) == folder}
    graph = {name: inside.intersection(ours(name)) for name in inside}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")


def test_the_package_imports_no_baseline_and_its_core_names_no_method_or_suite():
    for module in MODULES:
        if module.startswith("moppa"):
            assert not [name for name in imports_of(module) if name.partition(".")[0] == "baselines"], module
    for folder in ("train", "record", "report"):
        for path in (ROOT / "moppa" / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            words = {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            if path.name != "schema.py":  # it lists the settings that methods got after records existed
                assert not words & {"lora", "moppa", "vpt_deep", "adapter", "mini", "vtab1k"}, path
