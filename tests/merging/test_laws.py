"""Laws over the algorithms that need no images, with the settings of their YAMLs unless a law names others."""

import inspect
import re
from functools import partial

import pytest
import torch

from moppa.merging import average, iso_c, knots_ties, lines, task_arithmetic, tsv
from moppa.merging.updates import LowRank, dense
from tests.conftest import ROOT
from tests.merging.deltas import MERGES, assert_close, dense_deltas, draw, low_rank_deltas, made_dense, settings_of

DOCS = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
SEEDED = {"dare", "dare_ties", "opcm"}
FOR_TESTS = {name: {"seed": 0} for name in SEEDED} | {"wudi": {"steps": 5}}


def data_free():
    for name in MERGES:
        function, _ = settings_of(name)
        if "training" not in inspect.signature(function).parameters and name != "frozen":
            yield name


def algorithm(name, **others):
    function, values = settings_of(name)
    return partial(function, **values | FOR_TESTS.get(name, {}) | others)


DATA_FREE = list(data_free())
# What a single expert is changed by; the value of a setting that leaves it as it is, or None if there is none.
NOT_IDENTITY = {
    "ties": {"keep": 1.0},
    "knots_ties": {"keep": 1.0},
    "dare": {"drop": 0.0},
    "dare_ties": {"drop": 0.0, "keep": 1.0},
    "pcb": None,
    "iso_c": None,
    "iso_cts": None,
    "dc_merge": None,
}


@pytest.mark.parametrize("deltas", [dense_deltas(1), low_rank_deltas(1)], ids=["dense", "low rank"])
@pytest.mark.parametrize("name", [name for name in DATA_FREE if NOT_IDENTITY.get(name, {}) is not None])
def test_a_single_expert_comes_back(name, deltas):
    assert_close(algorithm(name, **NOT_IDENTITY.get(name, {}))(deltas), deltas[0])


@pytest.mark.parametrize("name", NOT_IDENTITY)
def test_the_documented_exceptions_change_a_single_expert(name):
    [delta] = dense_deltas(1)
    merged = algorithm(name)([delta])
    assert any(not torch.allclose(merged[key], delta[key]) for key in delta)
    [text] = re.findall(r"## What a single expert gives\n\n(.+?)\n\n##", DOCS, re.DOTALL)
    assert f"`{name}`" in text


def test_pcb_gives_a_single_expert_back_where_its_score_is_not_zero():
    [delta] = dense_deltas(1)
    merged = algorithm("pcb", keep=0.5, clip=0.0)([delta])
    num_kept = 0
    for name, tensor in merged.items():
        kept = tensor != 0
        num_kept += int(kept.sum())
        torch.testing.assert_close(tensor[kept], delta[name][kept])
    assert num_kept == pytest.approx(sum(tensor.numel() for tensor in merged.values()) / 2, abs=1)


@pytest.mark.parametrize("name", [name for name in DATA_FREE if name not in SEEDED])
def test_the_order_of_the_experts_does_not_matter(name):
    for deltas in (dense_deltas(), low_rank_deltas()):
        assert_close(algorithm(name)([deltas[2], deltas[0], deltas[1]]), algorithm(name)(deltas))


@pytest.mark.parametrize("name", DATA_FREE)
def test_factors_give_what_dense_matrices_give(name):
    deltas = low_rank_deltas()
    assert_close(algorithm(name)(deltas), algorithm(name)(made_dense(deltas)), tolerance=1e-5)


@pytest.mark.parametrize("name", DATA_FREE)
def test_experts_need_not_change_the_same_tensors(name):
    deltas = low_rank_deltas()
    del deltas[0]["blocks.0.attn.qkv.weight"], deltas[1]["norm.bias"]
    merged = algorithm(name)(deltas)
    assert {key: tensor.shape for key, tensor in merged.items()} == {k: u.shape for k, u in deltas[2].items()}
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())


@pytest.mark.parametrize("name", DATA_FREE)
def test_merging_changes_no_expert_and_gives_the_same_again(name):
    deltas = low_rank_deltas()
    first = algorithm(name)(deltas)
    assert all(not tensor.requires_grad for tensor in first.values())
    for delta, fresh in zip(deltas, low_rank_deltas(), strict=True):
        assert_close(delta, fresh, tolerance=0)
    assert_close(algorithm(name)(deltas), first, tolerance=0)


def test_knots_with_a_plain_mean_is_the_average():
    for deltas in (dense_deltas(), low_rank_deltas()):
        assert_close(knots_ties.merge_aligned(deltas, average.merge), average.merge(deltas))


def test_tsv_of_orthogonal_experts_is_task_arithmetic():
    left, right = torch.linalg.qr(draw(12, 6, seed=1))[0], torch.linalg.qr(draw(6, 6, seed=2))[0]
    deltas = [{"w": LowRank(left[:, 2 * t : 2 * t + 2] * (3.0 + t), right[:, 2 * t : 2 * t + 2].T)} for t in range(3)]
    assert_close(tsv.merge(deltas), task_arithmetic.merge(deltas))
    assert_close(tsv.merge(made_dense(deltas)), task_arithmetic.merge(deltas))


@pytest.mark.parametrize("name", ["tsv", "iso_c", "dc_merge"])
def test_orthogonal_experts_with_equal_singular_values_add_up(name):
    left, right = torch.linalg.qr(draw(12, 6, seed=1))[0], torch.linalg.qr(draw(6, 6, seed=2))[0]
    parts = [slice(2 * index, 2 * index + 2) for index in range(3)]
    deltas = [{"w": LowRank(3.0 * left[:, part], right[:, part].T)} for part in parts]
    assert_close(algorithm(name)(deltas), task_arithmetic.merge(deltas))


def test_iso_cts_with_common_directions_only_is_iso_c():
    deltas = low_rank_deltas()
    assert_close(algorithm("iso_cts", common=1.0)(deltas), iso_c.merge(deltas))
    merged = algorithm("iso_cts", common=0.5)(deltas)["blocks.0.attn.qkv.weight"]
    s = torch.linalg.svdvals(merged)
    torch.testing.assert_close(s, s.mean().expand_as(s))


def test_iso_c_has_a_flat_spectrum_of_the_rank_of_the_sum():
    for rank, deltas in ((6, dense_deltas(3)), (4, low_rank_deltas(2))):
        s = torch.linalg.svdvals(iso_c.merge(deltas)["blocks.0.attn.qkv.weight"])
        total = sum(dense(delta["blocks.0.attn.qkv.weight"]) for delta in deltas)
        torch.testing.assert_close(s[:rank], torch.linalg.svdvals(total)[:rank].mean().expand(rank))
        assert s[rank:].abs().max() < 1e-9 if rank < len(s) else True


def test_lines_without_slope_is_task_arithmetic():
    deltas = dense_deltas()
    expected = {name: 0.3 * tensor for name, tensor in task_arithmetic.merge(deltas).items()}
    assert_close(lines.merge(deltas, alpha=0.3, beta=0.0), expected)


def test_factors_apart_are_not_their_product():
    """The mistake that concatenated factors avoid."""
    updates = [delta["blocks.0.attn.qkv.weight"] for delta in low_rank_deltas()]
    apart = LowRank(sum(u.up for u in updates) / 3, sum(u.down for u in updates) / 3)
    assert (dense(apart) - average.merge([{"w": u} for u in updates])["w"]).abs().max() > 0.1
