"""Counts the parameters that a method trains: moppa count method=NAME [OVERRIDES].

OVERRIDES are those of `moppa run`, such as method.attach.rank=4 or backbone=dinov2_vits14. Without a backbone, prints
the sentence that the opening comment of configs/method/NAME.yaml contains: the parameters on ViT-B/16, and the
families of backbones to which the method attaches. If the method drops a part of the backbone, a second sentence says
how much it keeps. Nothing is downloaded.
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from torch import Tensor

from moppa.backbone.model import Backbone
from moppa.cli.errors import prints_errors
from moppa.peft.collect import count_parameters
from moppa.peft.method import attach_method, ignore_records
from moppa.record.check_values import NeedsImagesError, empty_model, no_examples
from moppa.utils.config import compose_config, instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import derive_seed, generator_for, seeded

TASK = "task=cifar100"  # which decides the size of the head alone
FAMILIES = {"ViT": "vit_b16_in21k", "Swin": "swin_b_in22k", "ConvNeXt": "convnext_b_in22k"}
NUM_EXAMPLES = 2


@prints_errors(HydraException)
def main() -> int:
    """Prints the sentence or the count; returns 1 if an override is wrong or the method does not fit the backbone."""
    overrides = sys.argv[1:]
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    names = {word.partition("=")[0] for word in overrides}
    overrides = overrides if "task" in names else [TASK, *overrides]
    if "backbone" in names:
        config = compose_config(overrides)
        count, needs_images = count_on(config)
        note = "; the number depends on the images, here of noise" if needs_images else ""
        print(f"{count['trainable_params']:,} trainable parameters on {config.backbone.name}, without the head{note}")
        print(dropped_sentence(count), end="")
    else:
        print(sentence(overrides))
    return 0


def sentence(overrides: list[str]) -> str:
    """Returns the sentence for a method's YAML.

    Raises:
        UserError: if the method attaches to no family of backbones.
    """
    counts, problems = {}, []
    for family, backbone in FAMILIES.items():
        try:
            counts[family] = count_on(compose_config([*overrides, f"backbone={backbone}"]))
        except UserError as error:
            problems.append(error)
    if "ViT" not in counts:
        raise problems[0]
    count, needs_images = counts["ViT"]
    families = list(counts)
    names = " and ".join(filter(None, [", ".join(families[:-1]), families[-1]]))
    number = f"{count['trainable_params']:,}"
    if needs_images:
        config = compose_config([*overrides, f"backbone={FAMILIES['ViT']}"])
        print(f"the number depends on the images: {number} on noise, within the budget", file=sys.stderr)
        number = f"at most {config.method.attach.get('budget', count['trainable_params']):,}"
    line = f"{number} trainable parameters on ViT-B/16 at 224 px, without the head; defined on {names}."
    return f"{line}\n{dropped_sentence(count)}".rstrip()


def dropped_sentence(count: dict[str, Any]) -> str:
    """Returns how many of the backbone's parameters a method keeps, as a line; empty if it keeps all."""
    kept, pretrained = count["backbone_params"]["kept"], count["backbone_params"]["pretrained"]
    return "" if kept == pretrained else f"It keeps {kept:,} of the backbone's {pretrained:,} parameters.\n"


def count_on(config: DictConfig) -> tuple[dict[str, Any], bool]:
    """Returns the numbers of parameters of method, head and backbone, and whether images decide them.

    Raises:
        UserError: if the method cannot be attached.
    """
    backbone: Backbone = instantiate(config, "backbone")
    method = instantiate(config, "method.attach", _partial_=True)
    attach: Any = partial(attach_method, method=method, generator=generator_for(0, "method"), finished=ignore_records)
    try:
        return all_counts(attach(empty_model(backbone), examples=no_examples)), False
    except NeedsImagesError:
        model: Any = backbone.create_model(drop_path=0.0)
        with seeded(derive_seed(0, "head")):
            model.reset_classifier(2)
        model.requires_grad_(False)
        return all_counts(attach(model, examples=noise(backbone.image_size))), True


def all_counts(model: Any) -> dict[str, Any]:
    """Returns the numbers of parameters of a model whose head becomes trainable."""
    model.get_classifier().requires_grad_(True)
    return {**count_parameters(model), "backbone_params": model.backbone_params}


def noise(image_size: int) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """Returns what a method reads instead of training images."""
    images = torch.randn(NUM_EXAMPLES, 3, image_size, image_size, generator=generator_for(0, "noise"))
    return lambda: [(images, torch.arange(NUM_EXAMPLES) % 2)]


if __name__ == "__main__":
    sys.exit(main())
