"""The arithmetic of updates: stored, low-rank and absent ones."""

import torch

from moppa.merging.updates import LowRank, StoredDelta, decompose, dense, flat, orthonormal, total, updates_of
from tests.merging.deltas import assert_close, dense_deltas, draw, low_rank_deltas


def test_a_stored_delta_is_the_same(tmp_path):
    for number, delta in enumerate([dense_deltas(1)[0], low_rank_deltas(1)[0]]):
        stored = StoredDelta(tmp_path / str(number))
        for name, update in delta.items():
            stored.store(name, update)
        assert_close(stored, delta, tolerance=0)
        assert {name: type(update) for name, update in stored.items()} == {n: type(u) for n, u in delta.items()}


def test_a_stored_view_takes_the_space_of_its_entries_alone(tmp_path):
    stored = StoredDelta(tmp_path)
    stored.store("w", torch.zeros(1000, 100)[3])
    assert stored.files["w"].stat().st_size < 10_000


def test_a_low_rank_matrix_is_decomposed_as_its_dense_one_without_its_null_space():
    update = low_rank_deltas(1)[0]["blocks.0.attn.qkv.weight"]
    u, s, vh = decompose(update)
    assert s.shape == (2,)
    torch.testing.assert_close(s, torch.linalg.svdvals(dense(update))[:2])
    torch.testing.assert_close((u * s) @ vh, dense(update))
    torch.testing.assert_close(u.T @ u, torch.eye(2, dtype=torch.float64))


def test_a_sum_of_factors_is_the_sum_of_matrices():
    updates = [delta["blocks.0.attn.qkv.weight"] for delta in low_rank_deltas()]
    torch.testing.assert_close(total(updates), sum(map(dense, updates)))
    torch.testing.assert_close(total([*updates, dense(updates[0])]), sum(map(dense, [*updates, updates[0]])))


def test_a_tensor_that_an_expert_leaves_as_it_is_counts_as_zero():
    first, second = low_rank_deltas(2)
    name = "blocks.0.attn.qkv.weight"
    del second[name]
    assert updates_of([first, second], name)[1].shape == (12, 6)
    assert not dense(updates_of([first, second], name)[1]).any()
    assert len(flat(second, [first, second])) == len(flat(first, [first, second]))
    assert isinstance(updates_of([first, second], name)[1], LowRank)


def test_orthonormal_columns_stay_and_others_become_so():
    basis = torch.linalg.qr(draw(6, 3, seed=1))[0]
    torch.testing.assert_close(orthonormal(basis), basis)
    columns = orthonormal(draw(6, 3, seed=2))
    torch.testing.assert_close(columns.T @ columns, torch.eye(3, dtype=torch.float64))
