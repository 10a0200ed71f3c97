"""What a record says about the code that made it."""

import json
import shutil
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from moppa.utils.config import loaded_configs
from moppa.utils.provenance import method_files, sources_sha256
from tests.conftest import CONFIGS, ROOT

PROGRAM = """
import json
from moppa.utils.provenance import git_state, sources_sha256
print(json.dumps([git_state(), sources_sha256("baselines.dora")]))
"""


def state_of(folder):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit of the code that the digest covers."""
    folder = tmp_path / "outer" / "checkout"
    for name in ("moppa", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path / "outer" / "checkout", "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "code")
    return folder


def test_a_commit_is_clean_until_code_changes_or_a_file_is_added(checkout):
    clean, sources = state_of(checkout)
    assert clean["dirty"] is False
    assert len(clean["commit"]) == 40
    (checkout / "baselines" / "mine.py").write_text("")
    assert state_of(checkout) == [clean | {"dirty": True}, sources]
    (checkout / "baselines" / "mine.py").unlink()
    with (checkout / "baselines" / "lora.py").open("a") as file:  # DoRA imports it
        file.write("\n")
    changed, changed_sources = state_of(checkout)
    assert changed["dirty"] is True
    assert changed_sources != sources


def test_a_copy_inside_another_repository_names_no_commit(checkout):
    shutil.rmtree(checkout / ".git")
    (checkout.parent / "thesis.tex").touch()
    git(checkout.parent, "init", "-q")
    git(checkout.parent, "add", "thesis.tex")
    git(checkout.parent, "commit", "-qm", "thesis")
    assert state_of(checkout)[0] == {"commit": None, "dirty": None}


def test_the_digest_covers_the_modules_that_a_method_imports():
    assert {path.stem for path in method_files("baselines.dora")} == {"dora", "lora"}
    assert sources_sha256("baselines.dora") != sources_sha256("baselines.lora")


def test_the_digest_of_the_sources_covers_the_yamls_that_hydra_composed(tmp_path):
    yaml = tmp_path / "lora.yaml"
    digests = []
    for text in ("name: lora", "name: lora  # another comment"):
        yaml.write_text(text)
        digests.append(sources_sha256("baselines.lora", (("method/lora.yaml", yaml),)))
        sources_sha256.cache_clear()
    assert len({*digests, sources_sha256("baselines.lora")}) == 3


def test_hydra_names_the_yamls_of_a_cell(monkeypatch, tmp_path):
    own = tmp_path / "method" / "own.yaml"
    own.parent.mkdir()
    own.write_text("name: own\nattach: {_target_: baselines.linear.attach}\n")
    overrides = ["method=own", "task=mini/digits", "train=mini", f"hydra.searchpath=[file://{tmp_path}]"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        composed = compose("cell", overrides=overrides, return_hydra_config=True)
    assert loaded_configs() == {}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
    files = loaded_configs()
    assert files["method/own.yaml"] == own
    assert {"cell.yaml", "task/mini/digits.yaml", "data/mini.yaml", "train/mini.yaml"} <= set(files)
    assert not [name for name in files if name.startswith(("hydra", "logger"))]
