"""TIES and PCB on 3 experts of 4 parameters, computed by hand, and what single steps of the algorithms give."""

import math

import pytest
import torch

from moppa.merging import dare, lines, opcm, pcb, ties, wudi
from tests.merging.deltas import dense_deltas, draw

EXPERTS = [[4.0, -1.0, 0.5, 2.0], [-3.0, -2.0, 0.1, 1.0], [1.0, 5.0, -0.2, 3.0]]


def vectors(rows=EXPERTS):
    return [{"norm.bias": torch.tensor(row, dtype=torch.float64)} for row in rows]


def merged(algorithm, rows=EXPERTS, **settings):
    return algorithm.merge(vectors(rows), **settings)["norm.bias"].tolist()


def test_ties_trims_elects_a_sign_and_averages_those_that_agree():
    # half of each row stays: [4, 0, 0, 2], [-3, -2, 0, 0], [0, 5, 0, 3]; the sums 1, 3, 0, 5 elect +
    assert merged(ties, keep=0.5) == [4.0, 5.0, 0.0, 2.5]
    # nothing is trimmed: the sums 2, 2, 0.4, 6 elect +
    assert merged(ties, keep=1.0) == [2.5, 5.0, 0.3, 2.0]


def test_ties_elects_the_usual_sign_where_the_sum_is_zero():
    assert merged(ties, [[1.0, 1.0, 2.0], [-1.0, 1.0, 2.0]], keep=1.0) == [1.0, 1.0, 2.0]
    assert merged(ties, [[1.0, -1.0, -2.0], [-1.0, -1.0, -2.0]], keep=1.0) == [-1.0, -1.0, -2.0]


@pytest.mark.slow  # imports peft
@pytest.mark.parametrize("density", [0.25, 0.5])
def test_ties_is_that_of_peft(density):
    from peft.utils.merge_utils import ties as peft_ties

    updates = [draw(6, 8, seed=index) for index in range(4)]
    expected = peft_ties(updates, torch.ones(4, dtype=torch.float64), density, "total")
    torch.testing.assert_close(ties.merge([{"w": update} for update in updates], keep=density)["w"], expected)


def test_pcb_weights_the_experts_by_their_scores():
    # n: rows of |tau| scaled from their smallest to their largest
    n = [[1.0, 1 / 7, 0.0, 3 / 7], [1.0, 1.9 / 2.9, 0.0, 0.9 / 2.9], [0.8 / 4.8, 1.0, 0.0, 2.8 / 4.8]]
    signed = [
        [math.copysign(size, value) for size, value in zip(*rows, strict=True)] for rows in zip(n, EXPERTS, strict=True)
    ]
    sums = [sum(column) for column in zip(*signed, strict=True)]
    scores = [
        [
            math.exp(3 * size**2) * math.tanh(value * total)
            for size, value, total in zip(sizes, values, sums, strict=True)
        ]
        for sizes, values in zip(n, EXPERTS, strict=True)
    ]
    # keep=0.5 clamps the two lowest scores of each row to the second highest, which scales to 0
    weights = []
    for row in scores:
        low, high = sorted(row)[2], max(row)
        weights.append([(max(score, low) - low) / (high - low) for score in row])
    expected = [
        sum(w * value for w, value in zip(column, values, strict=True)) / max(sum(column), 1e-12)
        for column, values in zip(zip(*weights, strict=True), zip(*EXPERTS, strict=True), strict=True)
    ]
    torch.testing.assert_close(merged(pcb, keep=0.5, clip=0.0), expected)
    assert [round(weight, 3) for weight in weights[0]] == [1.0, 0.0, 0.0, 0.0]  # 2.0 of the first row is its floor
    assert merged(pcb, keep=0.5, clip=0.0)[0] == 4.0  # the others disagree with the sum, and get 0


def test_pcb_clamps_the_smallest_and_the_largest_magnitudes():
    rows = [[float(value) for value in range(1, 11)]]
    assert merged(pcb, rows, keep=1.0, clip=0.1)[-2:] == [9.0, 9.0]


@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_dare_is_unbiased(drop):
    """The regression of what is left on what was there has slope 1, within five standard errors."""
    update = draw(400, 500, seed=1)
    left = dare.merge([{"w": update}], drop=drop, combine="task_arithmetic", keep=None, seed=0)["w"]
    slope = (left * update).sum() / update.square().sum()
    error = (drop / (1 - drop) * update.pow(4).sum()).sqrt() / update.square().sum()
    assert abs(float(slope) - 1) < 5 * float(error) < 0.06
    torch.testing.assert_close(left[left != 0], update[left != 0] / (1 - drop))
    assert float((left == 0).double().mean()) == pytest.approx(drop, abs=0.01)


def test_the_seed_of_dare_decides_the_mask_and_no_two_experts_share_one():
    update = dense_deltas(1)[0]["blocks.0.attn.qkv.weight"]
    settings = {"drop": 0.5, "combine": "task_arithmetic", "keep": None}
    first, again, other = (dare.merge([{"w": update}], seed=seed, **settings)["w"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    both = dare.merge([{"w": update}, {"w": update}], seed=0, **settings)["w"]
    assert not torch.equal(both, 2 * first)


def test_lines_scales_the_last_block_most_and_what_is_outside_least():
    names = ["blocks.0.a", "blocks.2.a", "blocks.10.a", "norm.bias", "layers.0.blocks.1.a"]
    assert lines.relative_depths(names[:4]) == {"blocks.0.a": 0, "blocks.2.a": 0.5, "blocks.10.a": 1, "norm.bias": 0}
    stages = ["layers.0.blocks.0.a", "layers.1.blocks.0.a", "layers.1.blocks.1.a"]
    assert list(lines.relative_depths(stages).values()) == [0, 0.5, 1]
    deltas = [{name: torch.ones(1)} for name in names[:1]] + [{name: torch.ones(1)} for name in names[1:3]]
    merged = lines.merge(deltas, alpha=None, beta=None)
    torch.testing.assert_close(merged["blocks.0.a"], torch.tensor([1 / 3]))
    torch.testing.assert_close(merged["blocks.10.a"], torch.tensor([1.0]))


def test_opcm_adds_nothing_along_the_diagonal_and_the_main_directions():
    merged, update = draw(8, 5, seed=1), draw(8, 5, seed=2)
    u, s, vh = torch.linalg.svd(merged)
    projected = u.T @ opcm.outside(update, merged, 0.5) @ vh.T
    num_main = int((s.cumsum(0) / s.sum() > 0.5).double().argmax())
    assert num_main > 0
    torch.testing.assert_close(projected.diagonal(), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(projected[:num_main, :num_main], torch.zeros(num_main, num_main, dtype=torch.float64))
    torch.testing.assert_close(projected[5:], (u.T @ update @ vh.T)[5:])


def test_opcm_gives_the_mean_norm_and_its_seed_decides_the_order():
    deltas = dense_deltas()
    results = [opcm.merge(deltas, alpha=0.5, seed=seed) for seed in range(4)]
    norms = [torch.stack([tensor.norm() for tensor in delta.values()]).norm() for delta in [*deltas, results[0]]]
    torch.testing.assert_close(norms[-1], torch.stack(norms[:-1]).mean())
    assert len({round(float(result["blocks.0.attn.qkv.weight"][0, 0]), 6) for result in results}) > 1


def test_wudi_takes_the_steps_that_autograd_and_adam_take():
    updates = [draw(5, 4, seed=seed) for seed in range(3)]
    tau = torch.nn.Parameter(sum(updates))
    optimizer = torch.optim.Adam([tau], lr=0.1)
    losses = []
    for _ in range(4):
        loss = sum(((tau - own) @ own.T).square().sum() / own.square().sum() for own in updates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(wudi.merge_matrix(updates, steps=4, lr=0.1), tau.detach())
    assert losses[-1] < losses[0]
