"""The command `moppa`: its usage, its dispatch, and what it says about a missing extra."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import requires

import pytest

from moppa.cli import count, docs
from moppa.cli import main as cli
from moppa.cli.errors import ends_with_its_pipe
from tests.conftest import METHODS, ROOT, config_of


def moppa(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["moppa", *words])
    return cli.main()


def run_python(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_it_prints_one_line_per_command(words, monkeypatch, capsys):
    assert moppa(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if not re.search(rf"^  {name} +\w.*\S$", printed, re.MULTILINE)] == []


def test_the_usage_imports_neither_torch_nor_the_harness():
    run = run_python("import sys; sys.argv = ['moppa']; from moppa.cli.main import main; main(); print(*sys.modules)")
    assert run.returncode == 0, run.stderr
    imported = run.stdout.splitlines()[-1].split()
    assert not {"torch", "hydra", "numpy", "rich"} & set(imported)


def test_an_unknown_command_is_an_error_with_the_usage(monkeypatch, capsys):
    assert moppa(monkeypatch, "tables") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: there is no command 'tables'\nusage: moppa COMMAND")


def test_a_group_of_commands_prints_its_members(monkeypatch, capsys):
    assert moppa(monkeypatch, "data") == 0
    assert re.findall(r"^  (\w[\w -]*?)  ", capsys.readouterr().out, re.MULTILINE) == [
        name for name in cli.COMMANDS if name.startswith("data ")
    ]
    assert moppa(monkeypatch, "data", "chart") == 2


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_main(name):
    assert callable(cli.import_command(name))


def test_the_arguments_of_a_command_are_passed_on(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        moppa(monkeypatch, "data", "noah-jpeg", "--help")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: moppa data noah-jpeg ")


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_runs_the_command_that_it_names(path):
    tree = ast.parse(path.read_text())
    name = re.fullmatch(r"The same as `moppa ([\w -]+)`\.", ast.get_docstring(tree))[1]
    assert f'run_command("{name}", sys.argv[1:])' in path.read_text()
    assert callable(import_module(cli.COMMANDS[name][0]).main)


def test_a_missing_extra_is_named_in_one_line(monkeypatch, capsys):
    def fail(_):
        raise ModuleNotFoundError("No module named 'hydra'", name="hydra.core")

    monkeypatch.setattr(cli, "import_command", fail)
    assert moppa(monkeypatch, "run", "task=eurosat") == 1
    assert capsys.readouterr().err == "error: moppa run needs hydra.core: pip install 'moppa[harness]'\n"


def test_a_missing_module_of_no_extra_is_raised(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError("No module named 'moppa.typo'", name="moppa.typo")

    monkeypatch.setattr(cli, "import_command", fail)
    with pytest.raises(ModuleNotFoundError):
        moppa(monkeypatch, "run")


HARNESS = sorted(
    re.split(r"[^\w.-]", requirement)[0]
    for requirement in requires("moppa")
    if re.search(r"extra == .harness", requirement)
)


@pytest.mark.parametrize("distribution", HARNESS)
def test_every_module_of_the_harness_belongs_to_its_extra(distribution):
    module = cli.MODULES.get(distribution, distribution.replace("-", "_"))
    import_module(module)
    assert cli.missing_extra(f"{module}.inner") == "harness"


@pytest.mark.slow  # imports torch and timm anew
def test_the_methods_need_nothing_of_the_harness():
    modules = {
        config_of("task=eurosat", f"method={name}").method.attach._target_.rpartition(".")[0] for name in METHODS
    }
    required_by_torch_or_timm = {"PIL", "filelock", "jinja2"}
    blocked = sorted({cli.MODULES.get(name, name.replace("-", "_")) for name in HARNESS} - required_by_torch_or_timm)
    run = run_python(f"""
import sys
for name in {blocked}:
    sys.modules[name] = None  # an import of it raises ImportError
import moppa, timm, torch
from importlib import import_module
for name in {sorted(modules)}:
    import_module(name)
model = moppa.attach(timm.create_model("test_vit", num_classes=10))
print(moppa.merge(model.eval())(torch.zeros(1, 3, 160, 160)).shape)
""")
    assert run.stdout == "torch.Size([1, 10])\n", run.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["table"],
        ["compare"],
        ["figures"],
        ["report"],
        ["rekey"],
        ["verify"],
        ["routes"],
        ["gain", "mini-vit_micro-final", "moppa", "linear", "--results"],
        ["sweep", "status", "--once", "--results"],
    ],
    ids=lambda words: words[0],
)
def test_a_wrong_path_is_an_error_and_nothing_is_written(words, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "none"
    assert moppa(monkeypatch, *words, str(folder)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (captured.err.startswith("error: "), captured.err.count("\n"), str(folder) in captured.err) == (
        True,
        1,
        True,
    )
    assert not folder.exists()


def test_help_does_not_need_docstrings(monkeypatch, capsys):
    monkeypatch.setattr(docs, "__doc__", None)  # as with python -OO
    with pytest.raises(SystemExit):
        moppa(monkeypatch, "docs", "--help")
    assert "Rewrites what the docs say" in capsys.readouterr().out


def test_count_prints_the_sentence_of_a_yaml(monkeypatch, capsys):
    monkeypatch.setitem(count.FAMILIES, "ViT", "test_vit")
    monkeypatch.setitem(count.FAMILIES, "Swin", "test_vit")
    assert moppa(monkeypatch, "count", "method=fact_tk", "method.attach.rank=4") == 0
    sentence = capsys.readouterr().out.strip()
    assert re.fullmatch(docs.FACTS.pattern, sentence)
    assert sentence.endswith("defined on ViT and Swin.")
    assert moppa(monkeypatch, "count", "method=lora", "backbone=test_vit", "method.attach.rank=3") == 0
    assert capsys.readouterr().out == "4,608 trainable parameters on test_vit, without the head\n"  # 6 x 2 x 2 x 64 x 3
    assert moppa(monkeypatch, "count", "method=relaxed_recursive", "backbone=test_vit") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [f"It keeps {300_096 - 3 * 40_960:,} of the backbone's 300,096 parameters."]
    assert moppa(monkeypatch, "count", "method=lora", "method.attach.rank=0") == 1
    assert "method.attach.rank=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("moppa sweep ", "plan status retry"),
        ("moppa run task=mini/sprites", "task=mini/sprites_location task=mini/sprites_orientation"),
        ("moppa sweep plan +sweep=vtab1k", "+sweep=vtab1k +sweep=vtab1k_all"),
        ("moppa count method=spt", "method=spt_adapter method=spt_lora"),
    ],
)
def test_tab_completes_commands_and_overrides(line, expected, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    assert moppa(monkeypatch, "-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == expected.split()


def test_the_script_for_tab_registers_moppa(monkeypatch, capsys):
    assert moppa(monkeypatch, "run", "-sc", "install=bash") == 0
    assert capsys.readouterr().out.rstrip().endswith("-F hydra_bash_completion moppa")


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "moppa.cli.main", "--help"],
        pytest.param(["run.py", "--help"], marks=pytest.mark.slow),
        pytest.param(["run.py", "task=eurosat", "--cfg", "job"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["buffered", "unbuffered"])
def test_a_command_whose_output_is_closed_ends_without_a_traceback(words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_connection_that_is_closed_is_an_error_of_its_own():
    @ends_with_its_pipe
    def upload():
        raise BrokenPipeError("the server has closed the connection")

    with pytest.raises(BrokenPipeError, match="the server"):
        upload()


def test_a_checkout_works_without_being_installed(monkeypatch, capsys):
    monkeypatch.setattr(cli, "version_of", lambda package: None)
    monkeypatch.setattr(cli, "requires", None)  # would raise that there is no package moppa
    assert cli.missing_extra("onnx") is None
    assert moppa(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == "moppa of a checkout that is not installed\n"
