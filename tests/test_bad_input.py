"""Bad input ends with one line that names the setting, the value and the fix, and leaves no files behind."""

import json
import subprocess
from pathlib import Path

import pytest
import timm
import torch

from moppa.record.cell import cell_from_config
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from tests.bad_data import DATA_CASES, write_bad_data
from tests.conftest import TOY, config_of
from tests.python_process import run_python

# name: overrides, and what the message must contain; FILES and MOUNTS are replaced by folders of the fixtures below.
CASES = {
    "unknown task": (["task=cifar11"], ["task/cifar11", "cifar100", "eurosat", "smallnorb_ele"]),
    "unknown method": (["method=lorra"], ["method/lorra", "linear", "lora", "moppa"]),
    "unknown backbone": (["backbone=vit_b"], ["backbone/vit_b", "vit_b16_mae", "dinov2_vits14"]),
    "unknown protocol": (["protocol=best"], ["protocol/best", "final", "tune", "best_on_test"]),
    "unknown data": (["data=cloud"], ["data/cloud", "tfds"]),
    "unknown logger": (["logger=comet"], ["logger/comet", "none", "wandb"]),
    "unknown recipe": (["train=long"], ["train/long", "common"]),
    "misspelled group": (["metod=lora"], ["metod"]),
    "misspelled setting": (["train.epoch=3"], ["train.epoch", "not in struct"]),
    "misspelled hyperparameter": (["method=lora", "method.attach.rnk=4"], ["rnk", "not in struct"]),
    "hyperparameter that does not exist": (["method=lora", "+method.attach.rnk=4"], ["method.attach", "rnk"]),
    "hyperparameter outside of attach": (
        ["method=lora", "+method.rank=4"],
        ["there is no setting method.rank", "did you mean method.attach.rank?"],
    ),
    "lr at the root": (["+lr=0.1"], ["there is no setting lr", "did you mean train.lr?"]),
    "epochs at the root": (["+epochs=50"], ["there is no setting epochs", "did you mean train.epochs?"]),
    "unknown setting at the root": (["+foo=1"], ["there is no setting foo"]),
    "unknown setting of run": (["+run.thread=1"], ["there is no setting run.thread", "run.threads"]),
    "unknown setting of a group": (["+train.foo=1"], ["train", "foo"]),
    "hyperparameter of another method": (["method=linear", "+method.attach.rank=4"], ["method.attach", "rank"]),
    "unknown fit": (["method=linear", "method.fit=newton"], ["method.fit='newton'", "steps, lbfgs"]),
    "fit of a method that trains more than the head": (
        ["method=lora", "+method.fit=lbfgs"],
        ["method.fit=lbfgs", "12,288 parameters", "remove method.fit"],
    ),
    "value that does not parse": (["train.lr=[1"], ["no viable alternative", "[1"]),
    "epochs 0": (["train.epochs=0"], ["train.epochs=0", "an integer of at least 1"]),
    "epochs a fraction": (["train.epochs=1.5"], ["train.epochs=1.5", "an integer"]),
    "epochs a word": (["train.epochs=many"], ["train.epochs='many'", "an integer"]),
    "epochs missing": (["train.epochs=???"], ["train.epochs: Missing mandatory value"]),
    "batch 0": (["train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
    "rate 0": (["train.lr=0"], ["train.lr=0", "above 0"]),
    "rate negative": (["train.lr=-1e-3"], ["train.lr=-0.001", "above 0"]),
    "rate nan": (["train.lr=nan"], ["train.lr=nan", "number"]),
    "rate a word": (["train.lr=fast"], ["train.lr='fast'", "number"]),
    "weight decay negative": (["train.weight_decay=-1"], ["train.weight_decay=-1", "at least 0"]),
    "warm-up longer than training": (["train.warmup=2"], ["train.warmup=2", "at most 1"]),
    "drop path 1": (["train.drop_path=1"], ["train.drop_path=1", "at most 0.99"]),
    "unknown optimizer": (["train.optimizer=adam"], ["train.optimizer='adam'", "adamw, sgd"]),
    "lr that diverges": (["train.lr=1e30", "train.warmup=0"], ["not finite at step", "lower train.lr"]),
    "seed negative": (["seed=-1"], ["seed=-1", "at least 0"]),
    "seed a word": (["seed=lucky"], ["seed='lucky'", "an integer"]),
    "unknown device": (["run.device=tpu"], ["run.device='tpu'", "auto, cpu, cuda"]),
    "evaluation batch 0": (["run.eval_batch=0"], ["run.eval_batch=0", "at least 1"]),
    "unknown matmul backend": (["run.matmul_backend=mkl"], ["run.matmul_backend='mkl'", "auto, torch, onednn"]),
    "unknown step": (["run.step=fast"], ["run.step='fast'", "auto, eager, captured, compiled"]),
    "captured step without a GPU": (["run.step=captured", "run.device=cpu"], ["run.step='captured'", "run.step=eager"]),
    "unknown precision": (["run.precision=bf8"], ["run.precision='bf8'", "auto, float32, bf16-mixed, bf16"]),
    "checkpoint never": (["run.checkpoint_epochs=0"], ["run.checkpoint_epochs=0", "at least 1"]),
    "image size between patches": (["backbone.image_size=40"], ["backbone.image_size=40", "16 px patch", "32 and 48"]),
    "image size 0": (["backbone.image_size=0"], ["backbone.image_size=0", "at least 1"]),
    "pooling that the model lacks": (["backbone.pool=best"], ["backbone.pool='best'", "token or avg"]),
    "model that timm lacks": (["backbone.timm=vit_huge_9"], ["backbone.timm='vit_huge_9'", "timm.list_models()"]),
    "weights absent": (["backbone.weights=FILES/none.pth"], ["none.pth", "no such file"]),
    "weights of another suffix": (["backbone.weights=FILES/weights.txt"], ["weights.txt", ".safetensors, .npz, .pth"]),
    "weights truncated": (
        ["backbone.weights=FILES/truncated.safetensors"],
        ["truncated.safetensors", "cannot be read"],
    ),
    "weights empty": (["backbone.weights=FILES/empty.pth"], ["empty.pth", "cannot be read"]),
    "weights with code": (["backbone.weights=FILES/code.pth"], ["code.pth", "cannot be read", "more than tensors"]),
    "weights npz of something else": (["backbone.weights=FILES/other.npz"], ["other.npz", "does not fit"]),
    "weights without one tensor": (["backbone.weights=FILES/missing.pth"], ["missing: blocks.2.mlp.fc1.weight"]),
    "weights with an extra tensor": (["backbone.weights=FILES/extra.pth"], ["unexpected: extra.weight"]),
    "weights of another width": (
        ["backbone.weights=FILES/wide.pth"],
        ["of another shape: norm.weight (65,) for (64,)", "choose the backbone"],
    ),
    "hub not reachable": (["backbone.weights=null"], ["timm/test_vit.r160_in1k", "backbone.weights=FILE"]),
    "data missing": (
        ["data._target_=moppa.data.tfds.TfdsSource", "data.name=tfds", "data.dir=FILES", "data.download=false"],
        ["no prepared eurosat/rgb", "data.dir=", "FILES", "moppa data prepare task=eurosat"],
    ),
    "data missing, manual download": (
        ["task=resisc45", "data._target_=moppa.data.tfds.TfdsSource", "data.name=tfds", "data.dir=FILES"],
        ["resisc45/3.0.0 has to be downloaded by hand", "NWPU-RESISC45.rar", "FILES/downloads/manual", "[prepare]"],
    ),
    "download neither true nor false": (
        ["data._target_=moppa.data.tfds.TfdsSource", "data.name=tfds", "data.download=maybe"],
        ["data.download='maybe'", "true or false"],
    ),
    "dataset unknown to TFDS": (
        ["data._target_=moppa.data.tfds.TfdsSource", "data.name=tfds", "task.builder=eurosaat"],
        ["task.builder=eurosaat", "not found"],
    ),
    "dataset version unknown to TFDS": (
        ["data._target_=moppa.data.tfds.TfdsSource", "data.name=tfds", "task.builder=eurosat/rgb:1.*.*"],
        ["eurosat/rgb:1.*.*", "2.0.0"],
    ),
    "data source class unknown": (["data._target_=moppa.data.tfds.Tfds"], ["moppa.data.tfds.Tfds"]),
    "another split": (["task.fingerprint={train800_sorted: abc}"], ["not the official split", "task.fingerprint=null"]),
    "labels beyond the classes": (["+data.label_shift=1", "task.version=2"], ["has label 10", "task.num_classes=10"]),
    "too many images": (["+data.surplus=1", "task.version=2"], ["more than 800", "800"]),
    "one class": (["task.num_classes=1"], ["task.num_classes=1", "at least 2"]),
    "title a number": (["task.title=2024"], ["task.title=2024", "put it in quotes"]),
    "column a word": (["task.column=first"], ["task.column='first'", "an integer of at least 0"]),
    "version of a task 0": (["task.version=0"], ["task.version=0", "at least 1"]),
    "split a word of YAML": (["task.splits.val200=true"], ["task.splits.val200=True", "put it in quotes"]),
    "digest a number of YAML": (["task.fingerprint={val200_sorted: 1e3}"], ["task.fingerprint.val200_sorted=1000.0"]),
    "builder null": (["task.builder=null"], ["task.builder=None", "a text"]),
    "label a word": (["task.label=count"], ["task.label='count'", "a function of moppa/data/labels.py"]),
    "images scaled by 0": (["task.pixel_scale=0"], ["task.pixel_scale=0", "at least 1"]),
    "suite a word of YAML": (["task.suite=false"], ["task.suite=False", "put it in quotes"]),
    "name of a task with a slash": (["task.name=a/b"], ["task.name='a/b'", "without slashes"]),
    "model of timm null": (["backbone.timm=null"], ["backbone.timm=None", "a text"]),
    "one module of a checkpoint without brackets": (
        ["backbone.unused=head"],
        ["backbone.unused='head'", "as in [head]"],
    ),
    "modules null": (["backbone.untrained=null"], ["backbone.untrained=None", "it must be a list"]),
    "weights a number": (["backbone.weights=7"], ["backbone.weights=7", "a text"]),
    "weights a folder": (["backbone.weights=FILES"], ["backbone.weights=", "FILES"]),
    "unknown group of tasks": (["task.group=other"], ["task.group='other'", "natural, specialized, structured"]),
    "tuning on the test set": (["protocol=tune", "protocol.evaluate=test"], ["protocol=tune", "evaluate=val200"]),
    "final on the training set": (["protocol.evaluate=val200"], ["protocol=final", "evaluate=test"]),
    "more than one evaluation": (["+protocol.every=1"], ["protocol.every=1", "only best_on_test"]),
    "best_on_test without evaluations": (
        ["protocol=best_on_test", "protocol.every=0"],
        ["protocol.every=0", "at least 1"],
    ),
    "unknown hparams": (["hparams=mine"], ["hparams='mine'", "given, best"]),
    "hparams=best without tune records": (
        ["hparams=best"],
        ["nothing was tuned for test_vit moppa eurosat", "protocol=tune first"],
    ),
    "lineage given": (["+data.lineage=tfds"], ["data", "lineage"]),
    "name of another source": (
        ["data._target_=moppa.data.tfds.TfdsSource", "data.name=noah"],
        ["data.name='noah'", "tfds"],
    ),
    "hparams=best while tuning": (["hparams=best", "protocol=tune"], ["hparams=best with protocol=tune"]),
    "no threads": (["run.threads=0"], ["run.threads=0", "at least 1"]),
    "rank 0": (["method=lora", "method.attach.rank=0"], ["method.attach.rank=0", "at least 1"]),
    "rank above the width": (["method=lora", "method.attach.rank=65"], ["method.attach.rank=65", "64"]),
    "decay of 1-D tensors a number": (["train.decay_1d=1"], ["train.decay_1d=1", "true or false"]),
    "what AdaptFormer reads": (
        ["method=adaptformer", "method.attach.reads=norm"],
        ["method.attach.reads='norm'", "before_norm, after_norm"],
    ),
    "prompts pooled a word": (
        ["method=vpt_deep", "method.attach.pool_prompts=maybe"],
        ["method.attach.pool_prompts='maybe'", "true or false"],
    ),
    "before pooling a number": (
        ["method=ssf", "method.attach.before_pooling=1"],
        ["before_pooling=1", "true or false"],
    ),
    "norms trained a number": (["method=houlsby", "method.attach.train_norms=1"], ["train_norms=1", "true or false"]),
    "setting that Houlsby adapters lack": (["method=houlsby", "+method.attach.rank=1"], ["method.attach", "rank"]),
    "one factor a number": (["method=lora", "method.attach.share_down=1"], ["share_down=1", "true or false"]),
    "no target": (["method=lora", "method.attach.targets=[]"], ["method.attach.targets=[]", "q, k, v, proj, fc1, fc2"]),
    "unknown target": (["method=lora", "method.attach.targets=[q,w]"], ["'w'", "q, k, v, proj, fc1, fc2"]),
    "scale 0": (["method=lora", "method.attach.alpha=0"], ["method.attach.alpha=0", "above 0"]),
    "moppa rank above the width": (["method.attach.rank=65"], ["method.attach.rank=65", "width 64"]),
    "moppa rank 0": (["method.attach.rank=0"], ["method.attach.rank=0", "at least 1"]),
    "moppa position": (["method.attach.position=after"], ["'after'", "attn_input, residual"]),
    "moppa router": (["method.attach.router=learned"], ["'learned'", "dynamic, static"]),
    "moppa gate without a bottleneck": (
        ["method.attach.gate=true", "method.attach.rank=null"],
        ["method.attach.gate=true", "set rank"],
    ),
    "moppa damping 0": (["method.attach.damping=0"], ["method.attach.damping=0", "above 0"]),
    "moppa time 0": (["method.attach.start.time=0"], ["method.attach.start.time=0", "above 0"]),
    "results under a file": (
        ["run.results=FILES/weights.txt"],
        ["cannot write", "there is a file in place of a folder"],
    ),
    "results read-only": (["run.results=MOUNTS/read_only"], ["cannot write", "read-only", "choose another folder"]),
    "results full": (["run.results=MOUNTS/full"], ["cannot write", "No space left", "make room"]),
    "cache under a file": (["data.cache=FILES/weights.txt"], ["cannot write", "a file in place of a folder"]),
    "cache on a full disk": (["data.cache=MOUNTS/full"], ["needs", "are free", "make room"]),
}
CASES |= DATA_CASES
NEEDS_MOUNT = {name for name, (overrides, _) in CASES.items() if any("MOUNTS" in override for override in overrides)}


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("pickled code ran",))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def outcomes(files, mounts, results):
    """Runs all cases in one fresh process, as a user would: without the type checks of the tests."""
    standard = [*TOY, "method=moppa", f"run.results={results / 'results'}", f"data.cache={results / 'cache'}"]

    def resolved(override):
        return override.replace("FILES", str(files)).replace("MOUNTS", str(mounts))

    cells = [[*standard, *map(resolved, overrides)] for overrides, _ in CASES.values()]
    # choosing a group twice is an error of its own, so the choice of the case replaces the standard one
    for cell, (overrides, _) in zip(cells, CASES.values(), strict=True):
        for override in overrides:
            name = override.partition("=")[0]
            for other in [word for word in cell if word.partition("=")[0] == name and word != resolved(override)]:
                cell.remove(other)
    (results / "cells.txt").write_text(json.dumps(cells))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(results / "hub")}
    done = run_python("-m", "tests.outcomes", results / "cells.txt", **offline)
    assert done.returncode == 0, done.stderr
    assert "pickled code ran" not in done.stdout
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_error_names_setting_value_and_fix(name, outcomes, files, mounts):
    if name in NEEDS_MOUNT and mounts is None:
        pytest.skip("this machine does not allow mounts")
    kind, text = outcomes[name]
    assert kind == "one line", text
    for word in CASES[name][1]:
        assert word.replace("FILES", str(files)) in text
    if text.startswith("error: "):
        assert "\n" not in text.partition("\nUserError")[0].partition(f"\n{text[7:20]}")[0]


def test_no_bad_input_leaves_partial_files(outcomes, results):
    leftovers = [
        path for path in results.rglob("*") if path.suffix in {".json", ".tmp", ".npz"} and "cache" not in path.parts
    ]
    assert leftovers == []
    assert not list(results.rglob("*.tmp*"))


def test_there_are_at_least_120_cases():
    assert len(CASES) >= 120


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=lora"], ["task"]),
        (["method=lorra", "task=eurosat"], ["lorra", "moppa"]),
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
