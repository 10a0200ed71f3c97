"""vit_micro: a small vision transformer for images of 64 px. Importing this module registers it in timm."""

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

__all__ = ["vit_micro_patch8_64"]

default_cfgs = generate_default_cfgs(
    {
        "vit_micro_patch8_64.distilled": {
            "input_size": (3, 64, 64),
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "num_classes": 0,
            "license": "see docs/vit_micro.md",
        }
    }
)


@register_model
def vit_micro_patch8_64(pretrained: bool = False, **overrides: Any) -> VisionTransformer:
    """Returns a ViT with 2.7 million parameters: 8 x 8 patches of 8 px, width 192, 6 blocks, 3 heads."""
    architecture: dict[str, Any] = {"img_size": 64, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
    return build_model_with_cfg(
        VisionTransformer,
        "vit_micro_patch8_64",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**architecture, **overrides},
    )
