"""The bit width of each layer under a budget, chosen by an integer program.

Hubara et al., "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming", 2020,
arXiv 2006.10518. Their cost of a layer is what the network loses; ours is the error of the layer's output.
"""

import math
from collections.abc import Mapping, Sequence


def choose_bit_widths(costs: Sequence[Mapping[int, float]], sizes: Sequence[int], *, mean_bits: float) -> list[int]:
    """Returns the bits of each layer that have the smallest sum of costs, and at most `mean_bits` per weight.

    The solution is exact, by dynamic programming over the number of bits.

    Args:
        costs: of each layer, by the numbers of bits that it can have. The smallest number is at most `mean_bits`.
        sizes: the number of weights of each layer.
        mean_bits: the budget.
    """
    unit = math.gcd(*sizes)
    budget = math.floor(mean_bits * (sum(sizes) // unit) + 1e-9)
    cheapest: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # by the bits of the layers so far
    for size, options in zip(sizes, costs, strict=True):
        extended: dict[int, tuple[float, list[int]]] = {}
        for used, (cost, chosen) in cheapest.items():
            for bits, added in options.items():
                total = used + bits * (size // unit)
                if total <= budget and (total not in extended or cost + added < extended[total][0]):
                    extended[total] = cost + added, [*chosen, bits]
        cheapest = extended
    return min(cheapest.values())[1]
