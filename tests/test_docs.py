"""The docs: generated parts are up to date, links and commands exist, and a new method needs one .py and one .yaml."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from moppa.cli import docs
from moppa.cli.main import COMMANDS
from tests.conftest import CONFIGS, METHODS, ROOT, config_of

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def commands_in(page):
    """The commands of indented or fenced blocks, with continued lines joined and comments removed."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if re.match(r"    |moppa |python ", line)]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(moppa|python) ", line)]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@PAGE
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def first_cell(overrides):
    """Returns the overrides of the first cell of a multirun. Named sweeps are composed by tests/test_configs.py."""
    cell = [re.sub(r"^([\w./+]+=[^,\[{]+),.*", r"\1", override) for override in overrides]
    cell = [override.replace("method=glob(*)", "method=lora") for override in cell]
    return [override for override in cell if not override.startswith(("+sweep=", "+grid="))]


@PAGE
def test_every_command_exists_and_its_overrides_compose(page):
    for program, *words in commands_in(page):
        if program == "python":
            script, *words = words
            if not (ROOT / script).is_file():
                assert not script.startswith(("scripts/", "run.py")), script
                continue
            is_cell = script == "run.py"
        else:
            name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
            assert name, words
            words, is_cell = words[len(name.split()) :], name == "run"
        if is_cell and not any(word == "..." or "/shapes" in word or "interval(" in word for word in words):
            overrides = [word for word in words if not word.startswith(("-", "hydra"))]
            given = any(word.startswith("task=") for word in overrides)
            config_of(*first_cell(overrides if given else ["task=eurosat", *overrides]))
            for group, name in re.findall(r"\+(sweep|grid)=(\w+)", " ".join(overrides)):
                assert (CONFIGS / group / f"{name}.yaml").is_file(), name


def test_count_text_names_the_factors():
    assert docs.count_text(["+sweep=tune_common", "task=dtd,svhn", "seed=0,1"]) == (
        "2 learning rates x 2 weight decays x 2 tasks x 2 seeds = 16 cells"
    )


TOY_METHOD = '''
"""Toy: a trainable shift of the patch embedding's output."""

import torch
from torch import nn

from moppa.peft.inject import parametrize_weights


class Shift(nn.Module):
    """b' = b + shift, with shift = 0 at the start."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        return bias + self.shift


def attach(model: nn.Module) -> None:
    """Shifts the output of the patch embedding, which is the first convolution."""
    embedding = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    parametrize_weights(embedding, bias=Shift(embedding.bias))
'''.lstrip()
TOY_YAML = """
# Toy (Nobody et al., arXiv 2401.00001): a shift of the patch embedding.
# 768 trainable parameters on ViT-B/16 at 224 px, without the head; defined on ViT, Swin and ConvNeXt.
# python run.py method=toy task=cifar100
name: toy
attach:
  _target_: baselines.toy.attach
""".lstrip()


@pytest.mark.slow
def test_a_new_method_is_one_py_and_one_yaml(tmp_path):
    tree = tmp_path / "tree"
    for name in ("moppa", "baselines", "configs", "docs", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "results").mkdir()
    for name in ("README.md", "run.py", "pyproject.toml", "results/official.csv"):
        shutil.copy(ROOT / name, tree / name)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}

    def python(*words):
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
        done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tree / "baselines" / "toy.py").write_text(TOY_METHOD)
    (tree / "configs" / "method" / "toy.yaml").write_text(TOY_YAML)

    changed = python("-m", "moppa.cli.main", "docs").splitlines()
    sweeps = [f"configs/sweep/{name}_all.yaml" for name in ("eurosat", "mini", "vtab1k")]
    assert changed == ["README.md", "docs/methods.md", *sweeps]
    assert "| [`toy`](https://arxiv.org/abs/2401.00001) | 768 |" in (tree / "README.md").read_text()
    assert "| [Nobody et al.](https://arxiv.org/abs/2401.00001) | 768 |" in (tree / "docs" / "methods.md").read_text()
    number = len(METHODS) + 1
    assert f"{number} methods x 19 tasks x 3 seeds = {57 * number} cells" in (tree / sweeps[-1]).read_text()

    laws = python("-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-m", "", "tests/test_laws.py", "-k", "toy")
    assert int(re.search(r"(\d+) passed", laws)[1]) >= 8
    cell = ["method=toy", "task=mini/digits", "backbone=vit_micro", "train=mini", "train.epochs=1"]
    assert "toy" in python("run.py", *cell)

    assert all(path.read_bytes() == text for path, text in before.items() if str(path.relative_to(tree)) not in changed)
    made = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - {
        str(path.relative_to(tree)) for path in before
    }
    source = {path for path in made if not path.startswith(("results/", "data/", "outputs/", ".hypothesis"))}
    assert source == {"baselines/toy.py", "configs/method/toy.yaml"}
