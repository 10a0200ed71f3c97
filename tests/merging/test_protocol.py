"""The protocol end to end on two small tasks: what is read when, what is recorded, and what a missing expert says."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from omegaconf import OmegaConf

from moppa.cli import merge as cli
from moppa.cli import verify
from moppa.data.task_data import TaskData
from moppa.merging.merged_model import MergedModel, predict
from moppa.merging.reevaluate import reevaluate_merge
from moppa.merging.run import Group, run_merges
from moppa.merging.stage import load_stage
from moppa.record.merge_schema import read_merge_predictions
from moppa.record.parts import instantiate_parts
from moppa.record.reevaluate import NotEvaluatedError
from moppa.record.schema import read_record
from moppa.record.verify_merges import verify_merges
from moppa.sweep.merge_groups import check_available
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import TOY, config_of
from tests.merging.deltas import MERGES

TASKS = ("eurosat", "diabetic_retinopathy")
SIZES = ("task.num_train=64", "task.num_val=32", "task.num_test=48", "train.epochs=1", "train.lr=1e-2")
SHORT = ("scales=[0.5,1.0]",)


def cells_of(folder, *overrides, tasks=TASKS):
    """Trains the experts of both protocols and returns them as a group."""
    places = [f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}"]
    groups = []
    for protocol in ("tune", "final"):
        toys = [[f"task={task}", *TOY[1:], *SIZES, *places, f"protocol={protocol}", *overrides] for task in tasks]
        groups.append([run_cell(config_of(*toy)) for toy in toys])
    return Group(*groups)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return cells_of(tmp_path_factory.mktemp("experts"), "method=lora")


def run(group, results, *words):
    return [path for path, _ in run_merges(group, cli.merge_configs([*SHORT, *words]), results)]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def merged(group, tmp_path_factory):
    """The record of a merge that reads training images, the exported backbone, and the splits in order of reading."""
    read_splits, load, folder = [], TaskData.load, tmp_path_factory.mktemp("merged")

    def logged(data, split):
        read_splits.append(split)
        return load(data, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskData, "load", logged)
        [path] = run(group, folder, "merge=regmean", "merge.algorithm.num_images=8", f"export={folder / 'out'}")
    [file] = (folder / "out").glob("*.safetensors")
    return SimpleNamespace(path=path, file=file, splits=read_splits, folder=folder)


def test_a_record_says_what_was_merged_and_how_the_scale_was_chosen(group, merged):
    record = read(merged.path)
    place = merged.path.relative_to(merged.folder).as_posix()
    assert place.startswith("records/merge/vtab1k/test_vit/lora/regmean/")
    assert place.endswith("/merge-seed0-draw0.json")
    assert record["config"]["merge"]["algorithm"]["num_images"] == 8
    assert record["search"]["scales"] == [0.5, 1.0]
    best = max(record["search"]["normalized"])
    assert record["scale"] == record["search"]["scales"][record["search"]["normalized"].index(best)]
    for cell in group.final:
        task = record["tasks"][cell.config["task"]["name"]]
        assert task["expert"]["final"]["correct"] == read_record(cell.record)["correct"]
        assert len(task["expert"]["final"]["record_sha256"]) == len(task["expert"]["tune"]["record_sha256"]) == 64
        assert task["total"] == 48
        assert 0 <= task["trained_head"] <= 48
    assert "seconds" not in record


def test_no_test_image_is_read_before_the_last_step(merged):
    first = merged.splits.index("test")
    assert merged.splits[first:] == ["test", "test"]
    assert set(merged.splits[:first]) == {"train800", "val200", "train800val200"}


def test_plain_timm_loads_the_merged_backbone_and_gives_the_recorded_predictions(group, merged, tmp_path):
    model = timm.create_model("test_vit", num_classes=0, img_size=32, checkpoint_path=str(merged.file)).eval()
    own = MergedModel(instantiate_parts(group.final[0]), torch.device("cpu"))
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(own.pretrained[name])}
    assert safetensors.torch.load_file(merged.file).keys() == own.pretrained.keys()
    assert {name.split(".", 2)[2] for name in changed} == {"attn.qkv.weight"}
    recorded = read_merge_predictions(merged.path, read(merged.path))
    for task in load_stage(group.final, own, tmp_path).tasks:
        split, labels = task.load("test")
        with torch.no_grad():
            features = model(own.preprocess.normalize(torch.from_numpy(np.array(split.images))))
        assert predict(features, task.expert.head).tolist() == recorded[task.name]["trained_head"].tolist()
        assert labels.tolist() == recorded[task.name]["label"].tolist()


def test_the_record_is_verified_with_those_of_its_experts(merged):
    assert verify_merges(merged.folder) == []


@pytest.mark.slow  # merges three times
def test_a_merge_is_evaluated_again_and_forged_predictions_are_found(group, tmp_path, monkeypatch, capsys):
    [path] = run(group, tmp_path, "merge=average")
    assert reevaluate_merge(path, {}) == ""
    with np.load(path.with_suffix(".npz")) as arrays:
        edited = dict(arrays)
    edited["eurosat/trained_head"] = edited["eurosat/label"]
    np.savez_compressed(path.with_suffix(".npz"), **edited)
    content = read(path)
    content["tasks"]["eurosat"]["trained_head"] = 48
    path.write_text(json.dumps(content | {"predictions": {"sha256": sha256_file(path.with_suffix(".npz"))}}))
    assert verify_merges(tmp_path) == []  # everything agrees
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(tmp_path), "--reevaluate"])
    assert verify.main() == 1
    output = capsys.readouterr().out
    assert "its experts, merged again, give other predictions for" in output
    assert "1 of 1 records evaluated again" in output
    with pytest.raises(NotEvaluatedError, match="weights"):
        reevaluate_merge(path, {"backbone.weights": str(tmp_path / "none.safetensors")})


@pytest.mark.slow  # merges eight times
def test_a_second_run_writes_the_same_bytes_and_a_third_none(group, tmp_path):
    words = ("merge=dare,opcm", "merge.draws=2")
    first = run(group, tmp_path / "first", *words)
    second = run(group, tmp_path / "second", *words)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(first) == len(set(first)) == 4
    again = list(run_merges(group, cli.merge_configs([*SHORT, *words]), tmp_path / "first"))
    assert again == [(path, False) for path in first]


@pytest.mark.slow
def test_every_algorithm_merges_experts(group, tmp_path):
    configs = cli.merge_configs(["merge=all", "scales=[0.5]"])
    for config in configs:
        config["merge"]["draws"] = 1
        config["merge"]["algorithm"] |= {name: 2 for name in ("steps",) if name in config["merge"]["algorithm"]}
    paths = [path for path, is_new in run_merges(group, configs, tmp_path) if is_new]
    assert [read(path)["algorithm"] for path in paths] == MERGES


def test_a_single_expert_gives_the_predictions_of_its_record(group, tmp_path):
    alone = Group(group.tune[:1], group.final[:1])
    [path] = run(alone, tmp_path, "merge=task_arithmetic", "scales=[1.0]")
    task = read(path)["tasks"]["eurosat"]
    assert task["trained_head"] == task["expert"]["final"]["correct"]
    assert read(path)["search"]["correct"] == [{"eurosat": task["expert"]["tune"]["correct"]}]
    assert read(path)["search"]["normalized"] == [1.0]


def test_the_experts_that_choose_cannot_load_the_test_set(group, tmp_path):
    model = MergedModel(instantiate_parts(group.final[0]), torch.device("cpu"))
    stage = load_stage(group.tune, model, tmp_path)
    for task in stage.tasks:
        with pytest.raises(UserError, match=r"protocol=tune reads train800 and val200, never test"):
            task.load("test")


def test_a_number_of_tasks_takes_some_in_an_order_of_the_seed(group):
    assert len(group.first(1).final) == 1
    assert group.first(2) == group.first(None) == Group(list(group.tune), list(group.final))
    with pytest.raises(UserError, match=r"num_tasks=0: it must be an integer of at least 1"):
        group.first(0)


def test_missing_experts_are_one_line_with_the_command_that_trains_them(group, tmp_path):
    words = ["+sweep=mini", "method=lora", "seed=0"]
    resolved = [OmegaConf.to_container(OmegaConf.create(cell.config)) for cell in group.final]
    cells = [replace(cell, record=tmp_path / "records" / f"{cell.key}.json") for cell in group.final]
    with pytest.raises(
        UserError, match=r"2 of 2 experts are missing, as .*`python run\.py \+sweep=mini method=lora"
    ) as error:
        check_available(cells, words, resolved, None)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("seed=0 protocol=final`")


@pytest.mark.slow
def test_experts_without_their_tensors_are_trained_in_a_folder_of_their_own(tmp_path):
    group = cells_of(tmp_path, "method=bitfit", "run.keep_trained=false", tasks=TASKS[:1])
    resolved = [cell.config for cell in group.final]
    with pytest.raises(
        UserError, match=r"a record but no trained tensors.*run\.results=results/experts.*experts=results"
    ):
        check_available([*group.tune, *group.final], ["+sweep=mini", "method=bitfit"], resolved, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["suite=mini", "method=lora"], "no merge is chosen: add merge=ties"),
        (["merge=ties", "method=lora"], "no suite is chosen: add suite=mini"),
        (["merge=ties", "suite=mini"], "no method is chosen: add method=lora"),
        (["merge=ties", "suite=small", "method=lora"], r"suite=small: there is no configs/sweep/small\.yaml"),
        (["merge=ties", "suite=mini", "method=lora", "protocol=final"], "protocol=final: a merge takes cells of"),
    ],
)
def test_a_wrong_command_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        cli.split_words(words)


def test_an_unknown_algorithm_and_bad_values_are_named(group, tmp_path):
    with pytest.raises(UserError, match=r"merge='tie': it must be one of .*average, "):
        cli.merge_configs(["merge=tie"])
    for words, message in {
        "merge=ties merge.algorithm.keep=0": r"merge\.algorithm\.keep=0: it must be a number above 0",
        "merge=ties scales=[-1]": r"scales=-1: it must be a number at least 0",
        "merge=dare merge.draws=0": r"merge\.draws=0: it must be an integer of at least 1",
    }.items():
        with pytest.raises(UserError, match=message):
            run(group, tmp_path, *words.split())


@pytest.mark.slow  # composes 21 configs
def test_all_means_every_algorithm():
    assert [config["merge"]["name"] for config in cli.merge_configs(["merge=all"])] == MERGES


def test_lists_are_combined():
    pairs = [(c["merge"]["name"], c["num_tasks"]) for c in cli.merge_configs(["merge=ties,average", "num_tasks=2,4"])]
    assert pairs == [("ties", 2), ("average", 2), ("ties", 4), ("average", 4)]
