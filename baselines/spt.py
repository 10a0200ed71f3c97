"""SPT: He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV 2023, arXiv 2303.08566.

Before training, the gradients of a few batches show which weights are most sensitive. A matrix with many
of them gets a LoRA or an adapter; in the others only the sensitive weights are tuned.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Generator, nn

from moppa.peft.inject import parametrize_weights, wrap_module
from moppa.peft.pieces import find_pieces, structured_target
from moppa.peft.sensitivity import Batches, Members, select_by_layer, sensitivities, tune_class_token
from moppa.peft.sparse import SparseLowRankDelta, sparse_deltas
from moppa.peft.stacked_adapters import StackedAdapters
from moppa.utils import validate

from .lora import LoRADelta

STRUCTURES = ("lora", "adapter")


def attach(
    model: nn.Module,
    *,
    structure: str,
    rank: int,
    budget: int,
    matrix_ratio: float,
    vector_ratio: float,
    num_images: int,
    batch_size: int,
    head_seed: int,
    dropout: float,
    generator: Generator | None,
    examples: Callable[[], Batches],
) -> None:
    """Tunes at most `budget` parameters, where the gradients on the first `num_images` of `examples` are largest.

    A matrix gets a `structure` (lora or adapter) of rank `rank` if it has at least 1 / `matrix_ratio` as many sensitive
    weights as the structure has parameters. A vector is tuned as a whole if at least 1 / `vector_ratio` of it is
    sensitive (the authors' alpha and beta). The untrained head is drawn from `head_seed` for the estimate only, so that
    the selection does not depend on the cell's seed. The class token is tuned too, as in the authors' code. `dropout`
    acts on what a structure reads, except that of an attention's projection.
    """
    validate.one_of("structure", structure, STRUCTURES)
    validate.integer("budget", budget, minimum=1)
    validate.number("matrix_ratio", matrix_ratio, minimum=0, exclusive_minimum=True)
    validate.number("vector_ratio", vector_ratio, minimum=0, exclusive_minimum=True)
    validate.integer("num_images", num_images, minimum=1)
    validate.integer("batch_size", batch_size, minimum=1)
    validate.integer("head_seed", head_seed, minimum=0)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    pieces = find_pieces(model, structure, rank, matrix_ratio, vector_ratio)
    scores = sensitivities(model, pieces, examples(), num_images=num_images, batch_size=batch_size, head_seed=head_seed)
    for layer, members in select_by_layer(scores, pieces, tune_class_token(model, budget)).items():
        tune_layer(layer, members, structure, rank, dropout, generator)


def tune_layer(
    layer: nn.Module, members: Members, structure: str, rank: int, dropout: float, generator: Generator | None
) -> None:
    """Attaches to a layer what was selected for its pieces: a structure for whole matrices, else single weights."""
    deltas, target = sparse_deltas(layer, members), structured_target(members)
    settings: Any = {"target": target, "rank": rank, "generator": generator}
    settings["dropout"] = 0.0 if target and target.name == "proj" else dropout
    if target and structure == "lora":
        lora = LoRADelta(alpha=rank, share_down=False, init="kaiming_uniform", **settings)
        deltas["weight"] = SparseLowRankDelta(lora, sparse=deltas.get("weight", nn.Identity()))
    if deltas:
        parametrize_weights(layer, **deltas)
    if target and structure == "adapter":
        wrap_module(target.owner, target.name, partial(StackedAdapters, **settings))
