"""Bad input ends with one line that names the setting, the value and the fix, and leaves no files behind."""

import subprocess
from pathlib import Path

import pytest
import timm
import torch

from moppa.record.cell import cell_from_config
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from tests.bad_data import DATA_CASES, write_bad_data
from tests.bad_settings import SETTING_CASES
from tests.conftest import FEW_IMAGES, TOY, config_of
from tests.outcomes import outcome, start
from tests.python_process import processes, run_python

# name: overrides, and what the message must contain. New rows belong in tests/bad_settings.py and tests/bad_data.py.
CASES = SETTING_CASES | DATA_CASES
NEEDS_MOUNT = {name for name, (overrides, _) in CASES.items() if any("MOUNTS" in override for override in overrides)}


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("pickled code ran",))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Weights and images with every kind of defect."""
    folder = tmp_path_factory.mktemp("files")
    write_bad_data(folder)
    state = timm.create_model("test_vit.r160_in1k", num_classes=7).state_dict()
    torch.save(
        {name: tensor for name, tensor in state.items() if name != "blocks.2.mlp.fc1.weight"}, folder / "missing.pth"
    )
    torch.save({**state, "extra.weight": torch.zeros(1)}, folder / "extra.pth")
    torch.save({**state, "norm.weight": torch.zeros(65)}, folder / "wide.pth")
    torch.save({"model": Code()}, folder / "code.pth")
    (folder / "weights.txt").write_text("weights")
    (folder / "empty.pth").touch()
    (folder / "other.npz").write_bytes(b"not a zip")
    (folder / "truncated.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    return folder


@pytest.fixture(scope="session")
def mounts(tmp_path_factory):
    """A full and a read-only file system, or None if this machine does not allow mounts."""
    folder = tmp_path_factory.mktemp("mounts")
    mounted = []
    for name, options in {"full": "size=16k", "read_only": "ro"}.items():
        (folder / name).mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder / name)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            mounted.append(folder / name)
    yield folder if len(mounted) == 2 else None
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="session")
def run_case(files, mounts, results):
    """Returns a function that runs a case as a user would, in a process without the type checks of the tests.

    Every worker runs its own cases, one after another in the same process.
    """
    toy = [override for override in TOY if override not in FEW_IMAGES]  # some cases count the images
    standard = [*toy, "method=moppa", f"run.results={results / 'results'}", f"data.cache={results / 'cache'}"]

    def cell(name):
        own = [word.replace("FILES", str(files)).replace("MOUNTS", str(mounts)) for word in CASES[name][0]]
        # choosing a group twice is an error of its own, so the choice of the case replaces the standard one
        chosen = {word.partition("=")[0] for word in own}
        return [*[word for word in standard if word.partition("=")[0] not in chosen], *own]

    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(results / "hub"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    with processes.Pool(1, start, [offline]) as pool:
        yield lambda name: pool.apply_async(outcome, [cell(name)]).get(timeout=120)


@pytest.mark.parametrize("name", CASES)
def test_the_error_names_setting_value_and_fix(name, run_case, files, mounts, results):
    if name in NEEDS_MOUNT and mounts is None:
        pytest.skip("this machine does not allow mounts")
    kind, text, printed = run_case(name)
    assert kind == "one line", text
    for word in CASES[name][1]:
        assert word.replace("FILES", str(files)) in text
    if text.startswith("error: "):
        assert "\n" not in text.partition("\nUserError")[0].partition(f"\n{text[7:20]}")[0]
    assert "pickled code ran" not in printed
    assert partial_files(results) == []


def partial_files(results):
    """Returns the records, and what an interrupted write leaves."""
    return [
        path
        for path in results.rglob("*")
        if ".tmp" in path.name or (path.suffix in {".json", ".npz"} and "cache" not in path.parts)
    ]


def test_there_are_at_least_120_cases():
    assert len(CASES) >= 120


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=lora"], ["task"]),
        (["method=lorra", "task=eurosat"], ["lorra", "moppa"]),
        (["task=eurosat", "train.epoch=3"], ["error: there is no setting train.epoch; did you mean train.epochs?"]),
        ([*TOY, "train.epochs=0"], ["error: train.epochs=0"]),
    ],
)
def test_the_command_line_prints_it_without_a_traceback_and_fails(overrides, words, tmp_path):
    done = run_python("run.py", *overrides, f"run.results={tmp_path}", f"data.cache={tmp_path}")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_not_json_stops_its_cell_and_is_not_overwritten(tmp_path):
    config = config_of("task=eurosat", "method=lora", f"run.results={tmp_path}")
    cell = cell_from_config(config, weights_sha256="w")
    cell.record.parent.mkdir(parents=True)
    cell.record.write_text("{")
    with pytest.raises(UserError, match=r"seed0\.json is not a record.*delete it and run its cell again"):
        _ = cell.is_done
    assert cell.record.read_text() == "{"


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file"
    with atomic_write(target) as temporary:
        temporary.write_text("old")

    def fail():
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise ConnectionError

    with pytest.raises((ConnectionError, UserError)):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in Path(tmp_path).iterdir()] == ["file"]
