"""A subspace that the low-rank updates of several tasks share, and a factor of an update that lies in it."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.utils.errors import SettingError


def lora_columns(
    tensors: Mapping[str, Mapping[str, Tensor]], name: str, rank: int, dim: int
) -> Float[Tensor, "dim columns"]:
    """Returns the factors A^T (d_in, r) or B (d_out, r) that finished cells of LoRA have of one matrix, side by side.

    `tensors` holds the trained tensors of each cell by the name of its record.

    Raises:
        SettingError: if a cell has no such factor.
    """
    factors = [torch.empty(dim, 0)]
    for record, of_record in tensors.items():
        factor = of_record.get(name, torch.empty(0))
        shape, wanted = list(factor.shape), [rank, dim] if ".down." in name else [dim, rank]
        if shape != wanted:
            found = f"is {shape}, not {wanted}" if name in of_record else "does not exist"
            raise SettingError(
                "records", f": {record} must be of method=lora with this rank and these targets: its {name} {found}"
            )
        factors.append((factor.T if ".down." in name else factor).float())
    return torch.cat(factors, dim=1)


@torch.no_grad()
def principal_directions(
    columns: Float[Tensor, "dim count"], num: int, *, generator: torch.Generator | None
) -> Float[Tensor, "dim directions"]:
    """Returns the first `num` left singular vectors of the centered columns, completed by other orthonormal ones.

    T factors of rank r span at most T r directions, of which centering removes one. The mean of the columns comes first
    among those that complete them, then random ones. If `num` is above `dim`, there are `dim` directions.
    """
    num = min(num, len(columns))
    found = columns
    if columns.shape[1]:
        mean = columns.mean(dim=1, keepdim=True)
        u, s, _ = torch.linalg.svd(columns - mean, full_matrices=False)
        noise = max(columns.shape) * torch.finfo(s.dtype).eps * s[:1]  # as in torch.linalg.matrix_rank
        found = torch.cat([u[:, : int((s > noise).sum())], mean], dim=1)[:, :num]
    drawn = torch.randn(len(columns), num - found.shape[1], generator=generator, dtype=columns.dtype)
    return torch.linalg.qr(torch.cat([found, drawn], dim=1)).Q


class SubspaceFactor(nn.Module):
    """basis @ coefficients + temporary @ mix: a (d, r) factor in a frozen basis (d, k) and in u directions of its own.

    At the start it is zero if `std` is 0. The basis is never saved.
    """

    def __init__(
        self,
        basis: Float[Tensor, "dim num"],
        *,
        rank: int,
        temporary: int,
        std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        dim, num = basis.shape
        self.register_buffer("basis", basis, persistent=False)
        self.coefficients = nn.Parameter(std * torch.randn(num, rank, generator=generator))
        self.temporary = self.mix = None
        if temporary:
            self.temporary = nn.Parameter(dim**-0.5 * torch.randn(dim, temporary, generator=generator))
            self.mix = nn.Parameter(std * torch.randn(temporary, rank, generator=generator))

    def forward(self) -> Float[Tensor, "dim rank"]:
        inside = self.get_buffer("basis") @ self.coefficients
        return inside if self.temporary is None or self.mix is None else inside + self.temporary @ self.mix
