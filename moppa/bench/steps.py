"""What a training step and a look cost: of every method, and of LoRA without one of the tricks at a time."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from moppa.backbone.efficient_blocks import SKIPPABLE, skip_unused
from moppa.bench.timing import interleaved
from moppa.peft.collect import count_parameters, penalties, trainable_parameters
from moppa.peft.inject import disable_output_deltas, merge
from moppa.peft.method import attach_method
from moppa.sweep.cost import counted
from moppa.train.loop import compile_model, train_step
from moppa.utils.config import instantiate
from moppa.utils.device import forward_context, peak_memory_bytes
from moppa.utils.matmul import matmul_backend, set_matmul_backend

DROP_PATH = 0.1  # the common recipe's
Batch = tuple[Tensor, Tensor]


def method_cost(
    configs: Path,
    method: str,
    timm_name: str,
    *,
    size: int,
    batch: int,
    device: torch.device,
    rounds: int,
    compiled: str | None = None,
) -> dict[str, Any]:
    """Parameters, seconds and operations of a step and of a look, and the peak memory of a step, which comes first.

    `plain_seconds` is the same backbone's step with its head alone to train, but with the gradient carried through all
    of it, as a method at the first block would need. `compiled` is `run.compile`, for both.
    """
    images, labels = shown(batch, size, device)
    model = with_method(configs, method, frozen(timm_name, size), (images.cpu(), labels.cpu())).to(device)
    skip_unused(model, SKIPPABLE)
    step = step_of(model, images, labels, compiled=compiled)
    step()
    peak = peak_memory_bytes(device)
    bare = skip_unused(frozen(timm_name, size), SKIPPABLE).to(device)
    plain = step_of(bare, images.clone().requires_grad_(True), labels, compiled=compiled)
    look = look_of(merge(copy.deepcopy(model)), images)
    seconds = interleaved({"plain": plain, "step": step, "look": look}, device, rounds)
    step_flops, look_flops = counted(model, images, labels)
    return {
        **count_parameters(model),
        **{f"{name}_seconds": value / batch for name, value in seconds.items()},
        "step_flops": step_flops,
        "look_flops": look_flops,
        "peak_memory_bytes": peak,
    }


def optimization_gains(
    configs: Path, timm_name: str, *, size: int, batch: int, device: torch.device, rounds: int
) -> dict[str, dict[str, float]]:
    """LoRA's step and look in seconds an image: with everything, and without one thing at a time."""
    images, labels = shown(batch, size, device)
    stock = with_method(configs, "lora", frozen(timm_name, size, drop_path=DROP_PATH)).to(device)

    def model(ways: Sequence[str] = SKIPPABLE) -> nn.Module:
        return skip_unused(copy.deepcopy(stock), ways)

    steps = {
        "with everything": step_of(model(), images, labels),
        "products by torch": on_torch(step_of(model(), images, labels)),
        "all tokens of the last block": step_of(model(("dropped_samples",)), images, labels),
        "dropped images computed too": step_of(model(("last_block_tokens",)), images, labels),
        "gradients of whole weights": step_of(disable_output_deltas(model()), images, labels),
        "AdamW not fused": step_of(model(), images, labels, fused=False),
        "without any": on_torch(step_of(disable_output_deltas(model(())), images, labels, fused=False)),
    }
    looks = {
        "with everything": look_of(merge(model()), images),
        "products by torch": on_torch(look_of(merge(model()), images)),
        "all tokens of the last block": look_of(merge(model(("dropped_samples",))), images),
        "not merged": look_of(disable_output_deltas(model()), images),
        "without any": on_torch(look_of(disable_output_deltas(model(())), images)),
    }
    return {
        kind: {name: seconds / batch for name, seconds in interleaved(works, device, rounds).items()}
        for kind, works in (("step", steps), ("look", looks))
    }


def on_torch(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, during which torch's own products are in use."""

    def done() -> None:
        before = matmul_backend()
        set_matmul_backend("torch")
        work()
        set_matmul_backend(before)

    return done


def shown(batch: int, size: int, device: torch.device) -> Batch:
    """Random images (B, 3, S, S) and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=generator).to(device), torch.arange(batch, device=device) % 10


def frozen(timm_name: str, size: int, *, drop_path: float = 0.0) -> nn.Module:
    """A backbone with random weights, of which the head is trained."""
    settings = {"img_size": size, "num_classes": 10, "drop_path_rate": drop_path}
    model = timm.create_model(timm_name, **settings).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model.train()


def with_method(configs: Path, method: str, model: nn.Module, *examples: Batch) -> nn.Module:
    """The model with a method as its YAML has it, seeded; some look at examples first."""
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        config = compose("cell", overrides=[f"method={method}", "task=cifar100"])
    attach = instantiate(config, "method.attach", _partial_=True)
    return attach_method(model, attach, generator=torch.Generator().manual_seed(0), examples=lambda: examples)


def step_of(
    model: nn.Module, images: Tensor, labels: Tensor, *, fused: bool = True, compiled: str | None = None
) -> Callable[[], Tensor]:
    """A training step, to be called again and again."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-4, fused=fused)
    return partial(
        train_step, compile_model(model, compiled), optimizer, images, labels, partial(penalties(model), 0.0)
    )


def look_of(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A forward as at a test, to be called again and again."""
    model.eval()

    def look() -> Tensor:
        with torch.inference_mode(), forward_context(images.device):
            return model(images)

    return look
