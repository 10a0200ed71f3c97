"""OFT: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", NeurIPS 2023, arXiv 2306.07280.

The authors' code: github.com/Zeju1997/oft.
"""

from collections.abc import Sequence

from torch import nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.rotation import RotationDelta
from moppa.peft.targets import target_linears


def attach(model: nn.Module, *, block_size: int, targets: Sequence[str]) -> None:
    """Rotates what each target (q, k, v, proj, fc1, fc2) of every block reads: W' = W R^T, block-diagonal R.

    In the paper's notation, whose W is ours transposed, it is R W. Each block rotates `block_size` neighboring inputs.
    """
    for target in target_linears(model, targets, method="OFT"):
        delta = RotationDelta(target, block_size=block_size, num_factors=1)
        parametrize_weights(target.layer, weight=delta)
