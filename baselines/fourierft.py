"""FourierFT: Gao et al., "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", ICML 2024.

arXiv 2405.03003; the authors' code: github.com/Chaos96/fourierft.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import add_updates
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.seeds import generator_for


class SpectralDelta(nn.Module):
    """W' = W + scale Re(IDFT2(F)) for each adapted one of the matrices stacked in W.

    F has learned coefficients at some entries, zero at the start, and zeros elsewhere. The authors draw the
    coefficients from a standard normal distribution.
    """

    def __init__(self, target: TargetLinear, entries: Int[Tensor, " coefficients"], *, scale: float) -> None:
        super().__init__()
        self.is_adapted, self.scale, self.shape = target.is_adapted, scale, target.matrix_shape
        self.spectrum = nn.ParameterList(torch.zeros(len(entries)) for _ in range(sum(self.is_adapted)))
        self.register_buffer("entries", entries, persistent=False)

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        coefficients = torch.stack(list(self.spectrum))
        zeros = coefficients.new_zeros(len(coefficients), self.shape[0] * self.shape[1])
        spectra = zeros.index_copy(1, self.get_buffer("entries"), coefficients).unflatten(1, self.shape)
        updates = self.scale * torch.fft.ifft2(spectra).real
        return add_updates(weight, self.is_adapted, list(updates))


def attach(model: nn.Module, *, num_coefficients: int, scale: float, targets: Sequence[str], entries_seed: int) -> None:
    """Adds an update of `num_coefficients` spectral coefficients to each target of every block.

    All matrices of one shape have the same entries, which only `entries_seed` decides. A matrix with fewer entries
    than `num_coefficients`, as in the first blocks of a small Swin, has a coefficient for each.
    """
    validate.integer("num_coefficients", num_coefficients, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    validate.integer("entries_seed", entries_seed, minimum=0)
    for target in target_linears(model, targets, method="FourierFT"):
        d_out, d_in = target.matrix_shape
        generator = generator_for(entries_seed, d_out, d_in)
        entries = torch.randperm(d_out * d_in, generator=generator, device="cpu")[:num_coefficients]
        parametrize_weights(target.layer, weight=SpectralDelta(target, entries.clone(), scale=scale))
