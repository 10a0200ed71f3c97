"""Share against its equation, its basis against numpy's SVD, and what finished cells must be to be its input."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.func import functional_call

from baselines import share
from moppa.peft import compose
from moppa.peft.collect import trainable_parameters
from moppa.record.finished import finished_tensors
from moppa.record.schema import read_record
from moppa.record.trained_file import trained_path
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import SettingError, UserError
from run import run_cell
from tests.baselines.equations import assert_equal_to, assert_setting_is_named, forward, perturbed, seeded, vit
from tests.conftest import TOY, config_of
from tests.factories import composed, write_record_file

RANK, COMPONENTS, DIM = 3, 5, 64
SETTINGS = {
    "rank": RANK,
    "components": COMPONENTS,
    "temporary": 2,
    "std": 0.1,
    "targets": ["q", "v"],
    "records": [],
    "basis_seed": 0,
    "finished": lambda _: {},
}
RECORDS = ("one", "two", "three")
NAMES = [
    f"blocks.{depth}.attn.qkv.parametrizations.weight.0.{side}.{index}"
    for depth in range(2)
    for side in ("down", "up")
    for index in range(2)
]


def lora_tensors(seed, rank=RANK):
    generator = seeded(seed)
    return {
        name: torch.randn(*((rank, DIM) if ".down." in name else (DIM, rank)), generator=generator) for name in NAMES
    }


def attached(tensors, **settings):
    model = vit()
    settings = {**SETTINGS, "records": list(tensors), "finished": lambda _: tensors, **settings}
    share.attach(model, **settings, generator=seeded())
    return model


@pytest.fixture(scope="module")
def tensors():
    return {name: lora_tensors(seed) for seed, name in enumerate(RECORDS)}


def test_share_is_the_equation(tensors):
    stock, model = vit(), attached(tensors)
    bases = {name: buffer.double() for name, buffer in model.named_buffers() if name.endswith("basis")}

    def factor(trained, path):
        inside = bases[f"{path}.basis"] @ trained[f"{path}.coefficients"]
        return inside + trained[f"{path}.temporary"] @ trained[f"{path}.mix"]

    def attention(trained):
        def call(depth, block, x):
            path = f"blocks.{depth}.attn.qkv.parametrizations.weight.0"
            q, k, v = block.attn.qkv.weight.chunk(3)
            q, v = (
                matrix + factor(trained, f"{path}.up.{index}") @ factor(trained, f"{path}.down.{index}").T
                for index, matrix in enumerate((q, v))
            )
            return functional_call(block.attn, {"qkv.weight": torch.cat([q, k, v])}, (x,))

        return call

    assert_equal_to(
        perturbed(model.double()),
        lambda trained: forward(stock, attention(trained), lambda _, block, x: block.mlp(x)),
    )


def test_the_basis_holds_numpys_principal_directions_of_the_centered_factors(tensors):
    model = attached(tensors)
    for name in NAMES:
        columns = np.concatenate(
            [(one[name].T if ".down." in name else one[name]).double().numpy() for one in tensors.values()], axis=1
        )
        u, _, _ = np.linalg.svd(columns - columns.mean(axis=1, keepdims=True))
        basis = model.get_buffer(f"{name}.basis").double().numpy()
        np.testing.assert_allclose(basis.T @ basis, np.eye(COMPONENTS), atol=1e-5)
        np.testing.assert_allclose(basis @ basis.T, u[:, :COMPONENTS] @ u[:, :COMPONENTS].T, atol=1e-4)


def test_a_composition_starts_from_the_finished_cells_too(tensors):
    settings = {name: value for name, value in SETTINGS.items() if name != "finished"}
    entry = {"name": "share", "attach": {"_target_": "baselines.share.attach", **settings, "records": list(tensors)}}
    model = vit()
    finished = lambda names: {name: tensors[name] for name in names}  # noqa: E731
    compose.attach(model, methods={"a": entry}, layers=None, generator=seeded(), examples=list, finished=finished)
    expected = attached(tensors).state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(SettingError, match=r"^methods\.a\.attach\.records=.*only `moppa run` reads finished cells"):
        compose.attach(vit(), methods={"a": entry}, layers=None, generator=seeded(), examples=list)


def test_directions_that_the_records_lack_come_from_the_seed(tensors):
    one = {"one": tensors["one"]}  # rank 3, and 2 when centered
    buffers = [
        dict(attached(one, **settings).named_buffers())[f"{NAMES[0]}.basis"]
        for settings in ({}, {}, {"basis_seed": 1}, {"records": [], "finished": lambda _: {}})
    ]
    assert torch.equal(buffers[0], buffers[1])
    assert not torch.equal(buffers[0], buffers[2])
    columns = one["one"][NAMES[0]].T
    centered = columns - columns.mean(dim=1, keepdim=True)
    inside = [buffer @ (buffer.T @ centered) for buffer in buffers]
    torch.testing.assert_close(inside[0], centered)
    torch.testing.assert_close(inside[2], centered)
    assert not torch.allclose(inside[3], centered, atol=0.1)


def test_temporary_directions_can_be_left_out(tensors):
    trained = trainable_parameters(attached(tensors, temporary=0))
    assert {name.rpartition(".")[2] for name in trained if "parametrizations" in name} == {"coefficients"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0: .*at least 1"),
        ({"components": 0}, r"^components=0: .*at least 1"),
        ({"temporary": -1}, r"^temporary=-1: .*at least 0"),
        ({"std": 0}, r"^std=0: .*above 0"),
        ({"basis_seed": -1}, r"^basis_seed=-1: .*at least 0"),
        ({"records": "one"}, r"^records='one': it must be a list"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(share.attach, {**SETTINGS, **setting}, message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, r"^records: one must be of method=lora .* does not exist"),
        (lora_tensors(0, rank=4), r"its blocks\.0\.attn\.qkv\..*\.0 is \[64, 4\], not \[64, 3\]"),
    ],
)
def test_a_cell_without_these_factors_is_named(changed, message):
    with pytest.raises(SettingError, match=message):
        attached({"one": changed})


@pytest.fixture
def finished(tmp_path):
    """Returns the path of a record whose tensors were kept, and reads words as a cell of another task would."""
    tensors = lora_tensors(0)
    sha256 = "0" * 64
    for _ in range(2):  # the second time with the digest of the file
        path = write_record_file(tmp_path, "task=eurosat", "method=lora", trained={"sha256": sha256})
        file = trained_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, file)
        sha256 = sha256_file(file)

    def read(word, task="svhn", weights="w" * 64):
        return finished_tensors([word], config=composed((f"task={task}",)), weights_sha256=weights)

    return path, read


def test_a_finished_cell_is_named_by_path_and_digest(finished):
    path, read = finished
    word = f"{path}@{sha256_file(path)[:12]}"
    assert read(word)[word].keys() == set(NAMES)
    assert read(word, task="eurosat") == {}  # its own task
    trained_path(path).write_bytes(b"other")
    with pytest.raises(UserError, match=r"is not the file that .* was evaluated with"):
        read(word)
    trained_path(path).unlink()
    with pytest.raises(UserError, match=r"does not exist: the cell ran with run\.keep_trained=false"):
        read(word)


def test_a_wrong_record_is_named_with_the_fix(finished):
    path, read = finished
    digest = sha256_file(path)[:12]
    for word in (f"{path}", f"{path}@{'0' * 12}", f"{path}@{digest[:6]}"):
        with pytest.raises(SettingError, match=rf"^records: name this record as .*\.json@{digest}, not as "):
            read(word)
    with pytest.raises(UserError, match=r"there is no record at .*none\.json"):
        read(f"{path.with_name('none.json')}@{digest}")
    with pytest.raises(SettingError, match=r"with weights wwwwwwwwwwww, and this cell is of .*: name cells of one"):
        read(f"{path}@{digest}", weights="v" * 64)


@pytest.mark.slow
def test_a_cell_of_share_starts_from_finished_cells_and_its_record_names_them(tmp_path):
    places = [f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}", "train.epochs=1"]
    toy = [*TOY[1:-1], *places]
    cells = [run_cell(config_of(f"task={task}", *toy, "method=lora")) for task in ("eurosat", "diabetic_retinopathy")]
    words = [f"{cell.record}@{sha256_file(cell.record)[:12]}" for cell in cells]
    cell = run_cell(config_of("task=eurosat", *toy, "method=share", f"method.attach.records=[{','.join(words)}]"))
    record = read_record(cell.record)
    assert [word.rpartition("@")[2] for word in record["config"]["method"]["attach"]["records"]] == [
        sha256_file(one.record)[:12] for one in cells
    ]
    random = run_cell(config_of("task=eurosat", *toy, "method=share"))
    assert random.key != cell.key
    assert read_record(random.record)["curve"] != record["curve"]
    with pytest.raises(SettingError, match=r"method\.attach\.records: name this record as .*@"):
        run_cell(config_of("task=eurosat", *toy, "method=share", f"method.attach.records=[{cells[1].record}]"))
