"""FacT against the dense update of the paper's tensor."""

import copy
import math

import pytest
import torch
from torch.func import functional_call

from baselines import fact_tk, fact_tt
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.peft.slices import SliceFactors
from moppa.utils.errors import SettingError, UserError
from moppa.utils.seeds import generator_for
from tests.baselines.families import DEPTH, DIM, VIT, assert_equal_to, images, leaf, perturbed, stock_model

METHODS = {
    "tensor train": (fact_tt, {}),
    "tucker, sliced": (fact_tk, {"mlp_cores": "sliced"}),
    "tucker, interleaved": (fact_tk, {"mlp_cores": "interleaved"}),
}

every_decomposition = pytest.mark.parametrize("decomposition", METHODS)


def attach(model, decomposition="tucker, sliced", generator=None, **settings):
    method, more = METHODS[decomposition]
    method.attach(model, **{"rank": 4, "scale": 0.5, **more, **settings}, generator=generator)


def interleaved(cores):
    """Returns the cores of fc1 as FacT-TK's public code lays them out: ranks outside, slices inside."""
    count, rank = cores.shape[:2]
    matrix = torch.zeros(rank, rank * count, dtype=cores.dtype)
    for index in range(count):
        matrix[:, index::count] = cores[index]
    return torch.stack(matrix.split(rank, dim=1))


def factors_of(model):
    return {name.rpartition(".")[2]: one for name, one in trainable_parameters(model).items() if ".shared." in name}


@every_decomposition
def test_fact_is_the_dense_update_of_the_papers_tensor(decomposition):
    stock = stock_model(VIT)
    model = copy.deepcopy(stock)
    attach(model, decomposition, generator_for(0, "method"))
    perturbed(model)
    stock.double().head.load_state_dict(model.head.state_dict())
    parameters = factors_of(model)
    leaves = {name: leaf(parameter) for name, parameter in parameters.items()}
    sigma = torch.einsum("abc,ia->ibc", leaves["core"], leaves["mix"]) if "mix" in leaves else leaves["core"]
    ratio = stock.blocks[0].mlp.fc1.out_features // DIM
    assert len(sigma) == DEPTH * (4 + 2 * ratio)
    if decomposition == "tucker, interleaved":
        parts = []
        for of_block in sigma.split(4 + 2 * ratio):
            attention, fc1, fc2 = of_block.split([4, ratio, ratio])
            parts += [attention, interleaved(fc1), interleaved(fc2).mT]
        sigma = torch.cat(parts)
    updates = iter(0.5 * torch.einsum("ja,iab,kb->ijk", leaves["input"], sigma, leaves["output"]))  # in x out

    weights = {}
    for depth in range(DEPTH):
        query, key, value, proj = (next(updates) for _ in range(4))
        fc1 = torch.cat([next(updates) for _ in range(ratio)], dim=1)
        fc2 = torch.cat([next(updates) for _ in range(ratio)], dim=0)
        for name, update in {
            "attn.qkv": torch.cat([query, key, value], dim=1),
            "attn.proj": proj,
            "mlp.fc1": fc1,
            "mlp.fc2": fc2,
        }.items():
            path = f"blocks.{depth}.{name}.weight"
            weights[path] = stock.get_parameter(path) + update.T
    expected = functional_call(stock, weights, (images(),))
    assert_equal_to(expected, list(leaves.values()), model(images()), list(parameters.values()))


@every_decomposition
def test_all_layers_share_one_set_of_factors_also_in_a_copy(decomposition):
    model = stock_model(VIT)
    attach(model, decomposition)
    for one in (model, copy.deepcopy(model)):
        assert sum(isinstance(module, SliceFactors) for module in one.modules()) == 1
        assert len(factors_of(one)) == len([name for name in trainable_parameters(one) if not name.startswith("head.")])


def test_a_merged_model_is_a_stock_model():
    model = stock_model(VIT)
    attach(model, generator=generator_for(0, "method"))
    expected = perturbed(model)(images())
    stock = stock_model(VIT).double()
    stock.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(stock(images()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlp_cores", "blocked"),
        ("rank", 0),
        ("rank", DIM + 1),
        ("scale", 0.0),
        ("scale", math.inf),
    ],
)
def test_a_bad_setting_is_named_and_nothing_is_attached(name, value):
    model = stock_model(VIT)
    before = list(model.state_dict())
    with pytest.raises(SettingError, match=rf"^{name}={value!r}"):
        attach(model, **{name: value})
    assert list(model.state_dict()) == before


def test_a_model_whose_weights_do_not_divide_into_slices_is_named():
    with pytest.raises(UserError, match=r"64 x 64 slices.*VisionTransformer"):
        attach(stock_model(VIT, mlp_ratio=2.5))
