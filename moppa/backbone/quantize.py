"""Weight-only quantization of a frozen backbone: `backbone.quantize`.

The weights of the linear layers become W = s Q, with integers Q of few bits and one scale s for each output. The layers
hold the rounded values in floating point, so that every method reads and changes them as it does pretrained ones;
`moppa.backbone.packed_linear` keeps the integers instead where a method leaves a layer alone.

The calibration is layer by layer on the training images, as in Hubara et al., "Improving Post Training Neural
Quantization: Layer-wise Calibration and Integer Programming", 2020, arXiv 2006.10518.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.backbone.bit_widths import choose_bit_widths
from moppa.peft.layer_inputs import summed_inputs
from moppa.peft.method import Examples
from moppa.utils.errors import SettingError

BITS = {"int8": (8,), "int4": (4,), "mixed": (4, 8)}  # that a layer can have, by the value of backbone.quantize
BLOCK = 64  # columns whose changes reach the other columns together, which is faster and changes nothing else


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A weight s Q: `codes` are the integers Q (d_out, d_in) in floating point, and `scale` is s (d_out, 1)."""

    codes: Float[Tensor, "d_out d_in"]
    scale: Float[Tensor, "d_out 1"]
    bits: int

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        """The weight s Q."""
        return self.codes * self.scale

    @property
    def largest(self) -> int:
        """The largest code; the smallest one is its negative."""
        return 2 ** (self.bits - 1) - 1


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer:
    """A frozen parameter of a model, by the name of its layer, and what it was rounded to."""

    name: str
    parameter: Tensor
    quantized: Quantized


@torch.no_grad()
def quantize(
    model: nn.Module, *, widths: Sequence[int], mean_bits: float | None, rounds: int, examples: Examples
) -> list[QuantizedLayer]:
    """Rounds the weights of all linear layers of a model but its head, in place, and returns the layers.

    Args:
        model: a frozen backbone with a head.
        widths: the numbers of bits that a weight can have.
        mean_bits: the most bits per weight, if there are several widths. The errors of the outputs, relative to the
            outputs, are then as small as possible in sum.
        rounds: of `calibrate`, for each layer; with 0 every weight is rounded to the nearest code.
        examples: returns batches (images, labels) of the training split, for a calibration or a choice of widths.
    """
    timm_model: Any = model
    head = {id(module) for module in timm_model.get_classifier().modules()}
    linears = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
    linears = {name: layer for name, layer in linears.items() if id(layer) not in head}
    reads_images = rounds > 0 or len(widths) > 1
    grams = summed_inputs(model, linears, (images for images, _ in examples())) if reads_images else {}
    options = [
        rounded_to(layer.weight, grams.get(name), widths=widths, rounds=rounds) for name, layer in linears.items()
    ]
    chosen = [widths[0]] * len(options)
    if mean_bits is not None:
        costs = [{bits: error for bits, (_, error) in of_layer.items()} for of_layer in options]
        chosen = choose_bit_widths(costs, [layer.weight.numel() for layer in linears.values()], mean_bits=mean_bits)
    layers = []
    for (name, layer), of_layer, bits in zip(linears.items(), options, chosen, strict=True):
        quantized, _ = of_layer[bits]
        layer.weight.copy_(quantized.weight)
        layers.append(QuantizedLayer(name=name, parameter=layer.weight, quantized=quantized))
    return layers


def rounded_to(
    weight: Float[Tensor, "d_out d_in"],
    gram: Float[Tensor, "d_in d_in"] | None,
    *,
    widths: Sequence[int],
    rounds: int,
) -> dict[int, tuple[Quantized, float]]:
    """Returns what a weight is rounded to, and the relative error of its layer's output, by the number of bits.

    Without X^T X of the layer's inputs there is no calibration, and the error is 0.
    """
    options: dict[int, tuple[Quantized, float]] = {}
    for bits in widths:
        quantized, error = round_to_nearest(weight, bits), 0.0
        if gram is not None:
            gram = gram.to(weight.device)
            quantized = calibrate(weight, quantized, gram, rounds=rounds)
            error = relative_error(weight, quantized.weight, gram)
        options[bits] = quantized, error
    return options


def relative_error(
    weight: Float[Tensor, "d_out d_in"], rounded: Float[Tensor, "d_out d_in"], gram: Float[Tensor, "d_in d_in"]
) -> float:
    """Returns the squared error of a layer's output over the squared output."""
    errors, outputs = ((matrix @ gram * matrix).sum() for matrix in (weight - rounded, weight))
    return float(errors / outputs) if outputs > 0 else 0.0


def round_to_nearest(weight: Float[Tensor, "d_out d_in"], bits: int) -> Quantized:
    """Returns the nearest codes, with scales by which the largest entry of each row gets the largest code."""
    largest = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True) / largest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a row of zeros
    return Quantized(codes=(weight / scale).round(), scale=scale, bits=bits)


def calibrate(
    weight: Float[Tensor, "d_out d_in"], start: Quantized, gram: Float[Tensor, "d_in d_in"], *, rounds: int
) -> Quantized:
    """Returns codes and scales with a smaller error of the layer's output, |X (W - s Q)^T|^2, from those of `start`.

    A round sets the codes of one column after another to the best ones given all others, and then every scale to the
    best one given its codes. No step raises the error.

    Args:
        weight: W.
        start: the first codes and scales.
        gram: X^T X of the inputs of the layer.
        rounds: their number.
    """
    weight, gram = weight.double(), gram.double()
    codes, scale = start.codes.double(), start.scale.double()
    read = gram.diagonal().nonzero().flatten()  # an input that is always 0 decides nothing
    for _ in range(rounds):
        slope = (weight - codes * scale) @ gram
        for block in read.split(BLOCK):
            before, of_block, inner = codes[:, block], slope[:, block], gram[block][:, block]
            for index, column in enumerate(block.tolist()):
                best = codes[:, column] + of_block[:, index] / (inner[index, index] * scale[:, 0])
                best = best.round().clamp(-start.largest, start.largest)
                of_block -= torch.outer((best - codes[:, column]) * scale[:, 0], inner[index])
                codes[:, column] = best
            slope -= (codes[:, block] - before) * scale @ gram[block]
        numerator = (weight @ gram * codes).sum(dim=1, keepdim=True)
        denominator = (codes @ gram * codes).sum(dim=1, keepdim=True)
        scale = torch.where((numerator > 0) & (denominator > 0), numerator / denominator, scale)
    return Quantized(codes=codes.to(start.codes), scale=scale.to(start.scale), bits=start.bits)


def check_frozen(layers: Sequence[QuantizedLayer], setting: str) -> None:
    """Raises `SettingError` if a method trains quantized weights themselves, which would then have no few bits.

    `setting` is the value of `backbone.quantize`.
    """
    trained = [layer.name for layer in layers if layer.parameter.requires_grad]
    if trained:
        raise SettingError(
            "backbone.quantize",
            f"={setting}: this method trains {len(trained)} of the {len(layers)} quantized weights themselves "
            f"({trained[0]}, ...); choose one that leaves them frozen, as lora, adapters, prompts and bitfit do, or "
            f"set backbone.quantize=null",
        )
