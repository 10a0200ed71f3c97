"""A memory of small operators that layers share and that attention mixes for each token."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn


class Memory(nn.Module):
    """R(z, x) z, with R = sum_m a_m U_m of the atoms U (m, r, r), and a = softmax(K q / sqrt(e)), q = Q z + S mean(x).

    z is the low-rank state of a token, and mean(x) averages the tokens that the layer reads: the sum of all earlier
    blocks after the norm. q has e entries. All blocks share U, K, Q and S.
    """

    atoms: nn.Parameter
    keys: nn.Parameter
    query: nn.Parameter
    summary: nn.Parameter

    def __init__(self, d_in: int, *, rank: int, num_atoms: int, query_dim: int, generator: Generator | None) -> None:
        super().__init__()
        shapes = {"atoms": (num_atoms, rank, rank), "keys": (num_atoms, query_dim)}
        shapes |= {"query": (query_dim, rank), "summary": (query_dim, d_in)}
        for name, shape in shapes.items():  # sizes do not change on the way: a row has a norm of 1
            matrix = torch.empty(shape).normal_(std=shape[-1] ** -0.5, generator=generator)
            self.register_parameter(name, nn.Parameter(matrix))

    def forward(
        self, z: Float[Tensor, "batch n rank"], x: Float[Tensor, "batch n d_in"]
    ) -> Float[Tensor, "batch n rank"]:
        query = F.linear(z, self.query) + F.linear(x.mean(dim=1, keepdim=True), self.summary)
        attention = (query @ self.keys.T / len(self.query) ** 0.5).softmax(dim=-1)
        return torch.einsum("bnm,mij,bnj->bni", attention, self.atoms, z)
