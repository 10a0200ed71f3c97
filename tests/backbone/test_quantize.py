"""Quantized backbones: rounding, calibration against exhaustive search, packed layers, and cells."""

import copy
import itertools
import operator

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from moppa.backbone.bit_widths import choose_bit_widths
from moppa.backbone.packed_linear import PackedLinear, pack, pack_int4, unpack_int4
from moppa.backbone.quantize import Quantized, calibrate, quantize, round_to_nearest
from moppa.export.facts import plain_model
from moppa.export.formats import export
from moppa.peft.collect import trainable_parameters
from moppa.record.parts import instantiate_parts
from moppa.record.schema import key_of, read_record
from moppa.record.trained import load_finished
from moppa.report.build import write_tables
from moppa.sweep.resolve import resolve_cell
from moppa.utils.config import to_plain
from moppa.utils.device import forward_context
from moppa.utils.errors import UserError
from moppa.utils.seeds import seeded
from run import run_cell
from tests.conftest import CONFIGS, METHODS, config_of, mostly_slow
from tests.factories import write_record_file
from tests.models import attach, batch, frozen_model, logits_of, perturbed, take_steps


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_error(weight, quantized, inputs):
    """Returns the squared error of each output over the inputs, in float64 and without a gram matrix."""
    rounded = quantized.codes.double() * quantized.scale.double()
    return (inputs.double() @ (weight.double() - rounded).T).square().sum(dim=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_that_of_torch(bits):
    weight = drawn(6, 11)
    weight[3] = 0
    quantized = round_to_nearest(weight, bits)
    largest = 2 ** (bits - 1) - 1
    expected = torch.fake_quantize_per_channel_affine(
        weight, quantized.scale.flatten(), torch.zeros(6, dtype=torch.int32), 0, -largest, largest
    )
    assert torch.equal(quantized.weight, expected)
    assert quantized.codes.abs().amax(dim=1).tolist() == [largest, largest, largest, 0, largest, largest]
    assert ((quantized.weight - weight).abs() <= quantized.scale / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_those_of_torchao(bits):
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight, largest = drawn(6, 32), 2 ** (bits - 1) - 1
    quantized = round_to_nearest(weight, bits)
    codes = primitives.quantize_affine(
        weight, (1, 32), quantized.scale.flatten(), torch.zeros(6), torch.int8, -largest, largest
    )
    assert torch.equal(codes, quantized.codes.to(torch.int8))
    dequantized = primitives.dequantize_affine(
        codes, (1, 32), quantized.scale.flatten(), torch.zeros(6), torch.int8, -largest, largest
    )
    assert torch.equal(dequantized, quantized.weight)


def best_error(weight, inputs, bits):
    """Returns the smallest error of each output over all codes, each with its own best scale."""
    largest = 2 ** (bits - 1) - 1
    choices = torch.tensor(list(itertools.product(range(-largest, largest + 1), repeat=weight.shape[1])))
    outputs = inputs.double() @ choices.double().T  # (images, choices)
    targets = inputs.double() @ weight.double().T
    scale = (targets.T @ outputs / outputs.square().sum(dim=0)).nan_to_num()
    return (targets.T[:, :, None] - scale[:, None] * outputs).square().sum(dim=1).amin(dim=1)


def test_calibration_comes_close_to_the_best_of_all_codes():
    inputs = drawn(30, 4, seed=1) @ drawn(4, 4, seed=2)  # correlated
    weight = drawn(40, 4, seed=3)
    start = round_to_nearest(weight, 3)
    calibrated = calibrate(weight, start, inputs.T @ inputs, rounds=4)
    errors = [output_error(weight, one, inputs).sum() for one in (start, calibrated)]
    best = best_error(weight, inputs, 3)
    assert (output_error(weight, calibrated, inputs) >= best * (1 - 1e-5)).all()
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] - best.sum() < 0.3 * (errors[0] - best.sum())


def test_no_round_raises_an_error_and_at_the_end_no_single_code_lowers_one():
    inputs, weight = drawn(200, 150, seed=1) @ drawn(150, 150, seed=2), drawn(8, 150, seed=3)
    inputs[:, 7] = 0  # an input that decides nothing
    gram = inputs.T @ inputs
    rounds = [round_to_nearest(weight, 4)]
    for _ in range(12):
        rounds.append(calibrate(weight, rounds[-1], gram, rounds=1))
    errors = torch.stack([output_error(weight, one, inputs) for one in rounds])
    assert (errors[1:] <= errors[:-1] * (1 + 1e-5)).all()
    assert (errors[-1] < 0.5 * errors[0]).all()
    last = rounds[-1]
    assert last.codes.abs().max() <= 7
    assert torch.equal(last.codes, last.codes.round())
    for column, step in itertools.product(range(0, 150, 10), (-1, 1)):
        codes = last.codes.clone()
        codes[:, column] += step
        changed = output_error(weight, Quantized(codes=codes, scale=last.scale, bits=4), inputs)
        assert (changed >= errors[-1] * (1 - 1e-4)).all()


def test_uncorrelated_inputs_keep_the_nearest_codes():
    weight = drawn(5, 9)
    start = round_to_nearest(weight, 4)
    assert torch.equal(calibrate(weight, start, torch.eye(9), rounds=1).codes, start.codes)


def test_a_model_is_rounded_but_for_head_norms_and_biases_and_calibration_lowers_the_error_of_its_output():
    stock, outputs = frozen_model(), {}
    images, _ = batch(seed=5, count=24)
    for rounds in (0, 2):
        model = copy.deepcopy(stock)
        layers = quantize(
            model, widths=(4,), mean_bits=None, rounds=rounds, examples=lambda: iter([batch(seed=5, count=24)])
        )
        assert len(layers) == 3 * 4
        changed = {
            name for name, tensor in model.named_parameters() if not torch.equal(tensor, stock.get_parameter(name))
        }
        assert changed == {f"{layer.name}.weight" for layer in layers}
        assert all(layer.parameter.unique().numel() > 15 for layer in layers)
        assert all((row.unique().numel() <= 15) for layer in layers for row in layer.parameter)
        outputs[rounds] = model.forward_features(images)
    expected = stock.forward_features(images)
    errors = {rounds: float((output - expected).square().mean()) for rounds, output in outputs.items()}
    assert 0 < errors[2] < 0.7 * errors[0]


def test_codes_of_four_bits_are_packed_in_pairs():
    codes = torch.arange(-7, 8, dtype=torch.int8).repeat(2, 1)
    packed = pack_int4(codes)
    assert packed.shape == (2, 8)
    assert torch.equal(unpack_int4(packed)[:, :15], codes)


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
@pytest.mark.parametrize(("bits", "num_bytes"), [(8, 64 * 33), (4, 64 * 17)])
def test_a_packed_layer_gives_the_outputs_and_gradients_of_its_weight_in_fewer_bytes(bits, num_bytes, precision):
    layer = nn.Linear(33, 64).requires_grad_(False)
    layer.bias.requires_grad_(True)
    quantized = round_to_nearest(layer.weight, bits)
    layer.weight.copy_(quantized.weight)
    packed = PackedLinear(layer, quantized)
    assert torch.equal(packed.weight, layer.weight)
    assert sum(buffer.nbytes for buffer in packed.buffers()) == num_bytes + 4 * 64
    assert list(packed.state_dict()) == ["bias"]
    gradients = []
    for one in (layer, copy.deepcopy(packed)):
        x = drawn(2, 7, 33).requires_grad_(True)
        with forward_context(torch.device("cpu"), precision):
            y = one(x)
        y.float().square().sum().backward()
        gradients.append((y, x.grad, one.bias.grad))
        layer.bias.grad = None
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("mean_bits", [4, 4.7, 6, 8])
def test_bit_widths_are_those_of_an_integer_program_of_scipy(mean_bits):
    from scipy.optimize import Bounds, LinearConstraint, milp

    random = np.random.default_rng(int(10 * mean_bits))
    for _ in range(20):
        sizes = random.choice([12, 36, 48], size=9)
        low, high = random.random((2, 9)) * [[1], [0.1]]
        costs = [{4: float(a), 8: float(b)} for a, b in zip(low, high, strict=True)]
        chosen = np.array(choose_bit_widths(costs, sizes.tolist(), mean_bits=mean_bits))
        assert (chosen * sizes).sum() <= mean_bits * sizes.sum() + 1e-6
        budget = LinearConstraint(4 * sizes, ub=(mean_bits - 4) * sizes.sum() + 1e-6)
        solution = milp(high - low, integrality=np.ones(9), bounds=Bounds(0, 1), constraints=budget)
        assert np.where(chosen == 8, high, low).sum() == pytest.approx(low.sum() + solution.fun)


def test_mixed_bit_widths_lie_between_four_and_eight_bits():
    images, _ = batch(seed=5, count=24)
    expected, errors = frozen_model().forward_features(images), {}
    for mean_bits in (4, 6, 8):
        model = frozen_model()
        layers = quantize(
            model, widths=(4, 8), mean_bits=mean_bits, rounds=0, examples=lambda: [batch(seed=5, count=24)]
        )
        bits, sizes = zip(*((layer.quantized.bits, layer.parameter.numel()) for layer in layers), strict=True)
        assert sum(map(operator.mul, bits, sizes)) <= mean_bits * sum(sizes)
        assert set(bits) == ({4, 8} if mean_bits == 6 else {mean_bits})
        errors[mean_bits] = float((model.forward_features(images) - expected).square().mean())
    assert errors[8] < errors[6] < errors[4]


def quantized_with(method):
    """Returns a model with a method on a backbone of eight bits, and its quantized layers."""
    model = frozen_model()
    layers = quantize(model, widths=(8,), mean_bits=None, rounds=0, examples=list)
    return perturbed(attach(model, method)), layers


IN_MEMORY = {"adapter": 12, "lora": 9, "bitfit": 12}  # quantized layers that the method leaves alone


@pytest.mark.parametrize("method", mostly_slow([name for name in METHODS if name != "full"], {"adapter", "lora"}))
def test_packing_changes_neither_logits_nor_a_training(method, unchecked):
    results = []
    for packs in (False, True):
        model, layers = quantized_with(method)
        if packs:
            pack(model, layers)
            packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
            assert len(packed) == IN_MEMORY.get(method, len(packed))
        with seeded(0):
            take_steps(model)
        trained = {name: tensor.detach() for name, tensor in trainable_parameters(model).items()}
        results.append({**trained, "logits": logits_of(model)})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_a_setting_without_effect_leaves_the_key_as_it_is():
    config = to_plain(config_of("task=eurosat", "method=lora"))
    older = copy.deepcopy(config)
    for name in ("quantize", "quantize_bits", "quantize_rounds"):
        del older["backbone"][name]
    others = [copy.deepcopy(config) for _ in range(3)]
    others[0]["backbone"]["quantize"] = "int8"
    others[1]["backbone"]["quantize"] = "int4"
    others[2]["backbone"] |= {"quantize": "int4", "quantize_rounds": 2}
    assert key_of(older, "w", "float32") == key_of(config, "w", "float32")
    assert len({key_of(one, "w", "float32") for one in (config, *others)}) == 4


@pytest.mark.slow
def test_a_cell_on_a_calibrated_backbone_is_recorded_and_exported_as_plain_weights(toy, tmp_path):
    overrides = (*toy, "method=lora", "train.epochs=1", "backbone.quantize=int4", "backbone.quantize_rounds=1")
    cell = run_cell(config_of(*overrides))
    record = read_record(cell.record)
    assert record["config"]["backbone"]["quantize"] == "int4"
    assert record["backbone_params"] == {"pretrained": 300_096, "kept": 300_096}
    assert not list((tmp_path / "cache").rglob("features"))
    finished = load_finished(cell.record)
    row = finished.backbone.blocks[0].mlp.fc1.weight[0]
    assert row.unique().numel() <= 15
    expected = finished.model(torch.ones(1, 3, 32, 32))
    export(cell.record, tmp_path / "model.safetensors")
    model = plain_model(record)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(model(torch.ones(1, 3, 32, 32)), expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"backbone.quantize=int4, .*--to timm"):
        export(cell.record, tmp_path / "adapter", to="peft")


def test_the_features_of_a_quantized_backbone_are_files_of_their_own(toy):
    parts = [
        instantiate_parts(resolve_cell(config_of(*toy, "method=linear", *words)))
        for words in ([], ["backbone.quantize=int8"], ["backbone.quantize=mixed", "backbone.quantize_bits=6"])
    ]
    caches = [one.feature_cache for one in parts]
    assert caches[0].backbone.keys() == {"timm", "weights"}
    assert caches[1].backbone == {**caches[0].backbone, "quantize": "int8"}
    assert caches[2].folder is None


def test_a_table_names_the_rows_on_a_quantized_backbone(tmp_path):
    for words in ([], ["backbone.quantize=int4"]):
        write_record_file(tmp_path, "method=lora", "task=dtd", *words)
    [table] = write_tables(tmp_path, CONFIGS).tables
    assert [row.name for row in table.rows] == ["lora", "lora (quantize int4)"]
