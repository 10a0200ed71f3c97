"""What an expert adds to the pretrained tensors: its delta, one update by tensor, and the arithmetic of updates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LowRank(NamedTuple):
    """The update up @ down of a matrix."""

    up: Float[Tensor, "d_out rank"]
    down: Float[Tensor, "rank d_in"]

    @property
    def shape(self) -> torch.Size:
        """The shape of the matrix."""
        return torch.Size((self.up.shape[0], self.down.shape[1]))


Update = Tensor | LowRank
Delta = Mapping[str, Update]  # by the name of the tensor; a tensor that the expert does not change may be absent


class StoredDelta(Mapping[str, Update]):
    """A delta in a folder, one file a tensor, so that the deltas of many experts need no memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, dict[str, Path]()
        folder.mkdir(parents=True, exist_ok=True)

    def store(self, name: str, update: Update) -> None:
        """Writes an update."""
        self.files[name] = self.folder / f"{len(self.files)}.pt"
        copies = tuple(part.clone(memory_format=torch.contiguous_format) for part in parts_of(update))
        torch.save(copies, self.files[name])  # of a view torch would write all that it is a view of

    def __getitem__(self, name: str) -> Update:
        parts = torch.load(self.files[name], mmap=True)
        return LowRank(*parts) if len(parts) == 2 else parts[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def parts_of(update: Update) -> tuple[Tensor, ...]:
    """Returns the tensors that an update consists of."""
    return tuple(update) if isinstance(update, LowRank) else (update,)


def tensor_names(deltas: Sequence[Delta]) -> list[str]:
    """Returns the names of the tensors that at least one expert changes, sorted."""
    return sorted({name for delta in deltas for name in delta})


def updates_of(deltas: Sequence[Delta], name: str) -> list[Update]:
    """Returns the update of a tensor by each expert."""
    return [update_of(delta, deltas, name) for delta in deltas]


def update_of(delta: Delta, deltas: Sequence[Delta], name: str) -> Update:
    """Returns the update of a tensor by one expert, zero if only others change it."""
    if name in delta:
        return delta[name]
    example = next(other[name] for other in deltas if name in other)
    part, shape = parts_of(example)[0], example.shape
    if len(shape) != 2:
        return torch.zeros_like(part)
    return LowRank(part.new_zeros(shape[0], 0), part.new_zeros(0, shape[1]))


def dense(update: Update) -> Tensor:
    """Returns an update as one tensor."""
    return update.up @ update.down if isinstance(update, LowRank) else update


def stack(deltas: Sequence[Delta], name: str) -> Float[Tensor, "experts *shape"]:
    """Returns the dense updates of a tensor by all experts."""
    return torch.stack([dense(update) for update in updates_of(deltas, name)])


def concatenated(updates: Sequence[Update]) -> Update:
    """Returns the sum of updates; that of low-rank ones has their factors side by side, which is exact."""
    factors = [update for update in updates if isinstance(update, LowRank)]
    if len(factors) < len(updates):
        return torch.stack([dense(update) for update in updates]).sum(dim=0)
    return LowRank(torch.cat([update.up for update in factors], dim=1), torch.cat([update.down for update in factors]))


def total(updates: Sequence[Update]) -> Tensor:
    """Returns the sum of updates."""
    return dense(concatenated(updates))


def flat(delta: Delta, deltas: Sequence[Delta]) -> Float[Tensor, " parameters"]:
    """Returns one expert's updates of all tensors that the experts change, as one vector."""
    return torch.cat([dense(update_of(delta, deltas, name)).flatten() for name in tensor_names(deltas)])


def merge_matrices(deltas: Sequence[Delta], merge: Callable[[list[Update]], Tensor]) -> dict[str, Tensor]:
    """Returns the merged delta: matrices by `merge`, one after another, and the mean of every other tensor."""
    merged = {}
    for name in tensor_names(deltas):
        updates = updates_of(deltas, name)
        merged[name] = merge(updates) if len(updates[0].shape) == 2 else total(updates) / len(updates)
    return merged


class Decomposition(NamedTuple):
    """A singular value decomposition, without the null space: u diag(s) vh, with the largest values first."""

    u: Float[Tensor, "d_out rank"]
    s: Float[Tensor, " rank"]
    vh: Float[Tensor, "rank d_in"]

    def cut(self, rank: int) -> "Decomposition":
        """Returns the part of the largest singular values."""
        return Decomposition(self.u[:, :rank], self.s[:rank], self.vh[:rank])


def decompose(update: Update) -> Decomposition:
    """Returns the singular value decomposition of a matrix, cut at its numerical rank; factors are not multiplied."""
    if isinstance(update, Tensor):
        u, s, vh = torch.linalg.svd(update, full_matrices=False)
    else:
        (q_up, r_up), (q_down, r_down) = torch.linalg.qr(update.up), torch.linalg.qr(update.down.T)
        u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
        u, vh = q_up @ u, vh @ q_down.T
    noise = max(update.shape) * torch.finfo(s.dtype).eps * s[:1]  # as in torch.linalg.matrix_rank
    return Decomposition(u, s, vh).cut(max(1, int((s > noise).sum())))


def orthonormal(columns: Float[Tensor, "dim count"]) -> Float[Tensor, "dim count"]:
    """Returns the orthonormal columns that are closest to the given ones: P Q of P diag(s) Q."""
    u, _, vh = torch.linalg.svd(columns, full_matrices=False)
    return u @ vh
