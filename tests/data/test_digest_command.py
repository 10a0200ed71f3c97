"""moppa data digest: the digests of a test split, printed and stored in the YAML of a task."""

import sys

import pytest

from moppa.cli import data_check, data_digest
from tests.conftest import CONFIGS

DIGEST = "d" * 64
YAML = "name: x\nfingerprint: null\n"
ENTRY = f"test_sha256:  # of the test split: sha256 over the sha256 of each decoded image\n  pixels: {DIGEST}\n"


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Runs a command on the digits, which are drawn at their own size."""
    configs = tmp_path / "configs"
    (configs / "task" / "mini").mkdir(parents=True)
    file = configs / "task" / "mini" / "digits.yaml"
    file.write_bytes((CONFIGS / "task" / "mini" / "digits.yaml").read_bytes())

    def run(module, *args):
        words = ["task=mini/digits", f"data.cache={tmp_path / 'cache'}", "size=8", "interpolation=bicubic", *args]
        monkeypatch.setattr(sys, "argv", ["moppa", *words])
        return module.main()

    return run, file, configs


def test_the_printed_digest_is_stored_and_then_checked(digits, monkeypatch, capsys):
    run, file, configs = digits
    assert run(data_digest) == 0
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines()[1:])
    assert set(printed) == {"  names", "  pixels"}
    monkeypatch.setattr(data_digest, "tasks_and_sources", with_configs(data_digest.tasks_and_sources))
    monkeypatch.setattr(data_digest, "CONFIGS", configs)
    assert run(data_digest, "--write") == 0
    assert f"\n  pixels: {printed['  pixels']}\n" in file.read_text()
    capsys.readouterr()
    digest = printed["  pixels"]
    assert run(data_digest, f"+task.test_sha256.pixels={digest}") == 0
    assert run(data_digest, f"+task.test_sha256.pixels={digest[::-1]}") == 1
    assert "test images are not the official ones" in capsys.readouterr().err
    assert run(data_check) == 0
    output = capsys.readouterr().out
    assert "official" in output
    assert "1 task at 8 px: 1,797 images" in output


def with_configs(function):
    return lambda _, names, overrides: function(CONFIGS, names, overrides)


@pytest.mark.parametrize(
    "old",
    [
        "",
        "test_sha256: null  # moppa data digest task=x --write\n",
        "test_sha256:  # of the test split\n  names: abc\n  pixels: def\n",
        "test_sha256: {names: abc}\n",
    ],
)
@pytest.mark.parametrize("rest", ["", "title: X\n"])
def test_the_entry_of_a_yaml_is_replaced_or_added(old, rest, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(YAML + old + rest)
    data_digest.write_digest(file, "pixels", DIGEST)
    assert file.read_text() == (YAML + ENTRY + rest if old else YAML + rest + ENTRY)
    data_digest.write_digest(file, "pixels", DIGEST)
    assert file.read_text().count("test_sha256") == 1
