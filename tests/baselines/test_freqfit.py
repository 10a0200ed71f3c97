"""FreqFit against its equation, with the Fourier transform written as sums."""

import math

import pytest
import torch

from baselines import freqfit
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError
from tests.baselines.equations import assert_equal_to, assert_masks_pass_through, images, perturbed, vit
from tests.models import frozen_model

HEIGHT, WIDTH, PREFIX = 4, 3, 3  # of images() and vit(): a class token and two registers


def waves(size, sign):
    """Returns exp(sign 2 pi i k n / size) / sqrt(size), frequency k by position n."""
    index = torch.arange(size, dtype=torch.float64)
    return torch.exp(sign * 2j * math.pi * index[:, None] * index / size) / math.sqrt(size)


def filtered(grid, gain):
    """Returns the real grid (B, H, W, C) whose half spectrum is that of `grid` times the gain (H, W // 2 + 1, C)."""
    height, width = grid.shape[1:3]
    half = width // 2 + 1
    spectrum = gain * torch.einsum("kh,lw,bhwc->bklc", waves(height, -1), waves(width, -1)[:half], grid + 0j)
    count = torch.tensor([1 if column in (0, width / 2) else 2 for column in range(half)], dtype=torch.float64)
    inverse = count[:, None] * waves(width, 1)[:half]  # a frequency and its negative, whose term is the conjugate
    return torch.einsum("kh,lw,bklc->bhwc", waves(height, 1), inverse, spectrum).real


def attached(filter_type, **settings):
    model = vit(**settings)
    freqfit.attach(model, filter_type=filter_type)
    return perturbed(model.double())


@pytest.mark.parametrize(
    ("filter_type", "pool", "width"), [("complex", "token", 3), ("complex", "avg", 4), ("real", "token", 4)]
)
def test_freqfit_is_a_filter_of_the_tokens_before_every_block(filter_type, pool, width, monkeypatch):
    settings = {"global_pool": pool, "fc_norm": False, "img_size": (64, 16 * width)}
    inputs = torch.cat([images(), images()], dim=-1)[..., : 16 * width]
    monkeypatch.setattr("tests.baselines.equations.images", lambda: inputs)
    stock, model = vit(**settings), attached(filter_type, **settings)

    def equation(p):
        def filtered_tokens(path, x):
            gain = p[f"{path}.filter"]
            gain = torch.complex(gain[..., 0], gain[..., 1]) if filter_type == "complex" else gain
            grid = x[:, PREFIX:].unflatten(1, (HEIGHT, width))
            grid = grid + (filtered(grid, gain) * p[f"{path}.scale"] + p[f"{path}.shift"])
            return torch.cat([x[:, :PREFIX], grid.flatten(1, 2)], dim=1)

        x = stock.norm_pre(stock._pos_embed(stock.patch_embed(inputs)))
        for depth, block in enumerate(stock.blocks):
            x = block(filtered_tokens(f"blocks.{depth}.before", x))
        x = filtered_tokens("blocks.1.after", x) if pool == "avg" else x
        return stock.forward_head(stock.norm(x))

    assert_equal_to(model, equation)


def test_the_layout_of_the_tokens_does_not_matter():
    vit_filter = attached("complex", img_size=(64, 64)).blocks[0].before
    gain = torch.complex(*vit_filter.filter.detach().unbind(-1))
    grid = torch.randn(2, 4, 4, 64, dtype=torch.float64)
    expected = grid + vit_filter.scale * filtered(grid, gain) + vit_filter.shift
    vit_filter.num_prefix_tokens = 0
    for layout, order in {"channels_last": (0, 1, 2, 3), "channels_first": (0, 3, 1, 2)}.items():
        vit_filter.layout = layout
        torch.testing.assert_close(vit_filter(grid.permute(order)), expected.permute(order), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("backbone", "num_filters"), [("class token", 3), ("no prefix", 3), ("swin", 4)])
def test_there_is_a_filter_after_the_last_block_if_the_head_reads_it(backbone, num_filters):
    model = frozen_model(backbone)
    freqfit.attach(model, filter_type="complex")
    assert sum(isinstance(module, freqfit.SpectralFilter) for module in model.modules()) == num_filters


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(
        lambda model, generator, **settings: freqfit.attach(model, **settings), {"filter_type": "real"}
    )


def test_a_bad_setting_is_named():
    model = vit()
    with pytest.raises(SettingError, match=r"^filter_type='fft': it must be one of complex, real"):
        freqfit.attach(model, filter_type="fft")
    assert not trainable_parameters(model)
