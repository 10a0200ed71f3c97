"""The time of a training step and of an evaluation: for every method, and for LoRA without single optimizations."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from moppa.backbone.efficient_blocks import SKIPPABLE, skip_unused
from moppa.backbone.precision import to_precision
from moppa.bench.timing import interleaved
from moppa.peft.collect import count_parameters, penalties, step_updates, trainable_parameters
from moppa.peft.inject import disable_output_deltas, merge
from moppa.peft.method import attach_method
from moppa.sweep.cost import count_flops
from moppa.train.step import StepRunner, forward_of, recorder_for, step_mode, train_step
from moppa.utils.config import compose_config, instantiate
from moppa.utils.device import forward_context
from moppa.utils.gpu import precision_name
from moppa.utils.matmul import matmul_backend, set_matmul_backend
from moppa.utils.usage import PeakMemory, peak_memory_bytes

DROP_PATH = 0.1  # of the common recipe
LR = 1e-4
NUM_CLASSES = 10
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured: a timm model on batches of random images, with `run.step` and `run.precision`.

    `rounds` is how often everything is measured.
    """

    timm_name: str
    image_size: int
    batch_size: int
    device: torch.device
    rounds: int
    step: str = "eager"
    precision: str = "auto"

    def random_batch(self) -> Batch:
        """Returns seeded images (B, 3, S, S) and labels (B,) on the device."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size, generator=generator)
        return images.to(self.device), torch.arange(self.batch_size, device=self.device) % NUM_CLASSES

    def frozen_backbone(self, *, drop_path: float = 0.0) -> nn.Module:
        """Returns a backbone with random weights on the CPU, of which only the head is trained."""
        settings = {"img_size": self.image_size, "num_classes": NUM_CLASSES, "drop_path_rate": drop_path}
        model: Any = timm.create_model(self.timm_name, **settings).requires_grad_(False)
        model.get_classifier().requires_grad_(True)
        return model.train()

    def prepare(self, model: nn.Module, skipped: Sequence[str] = SKIPPABLE) -> nn.Module:
        """Returns a model with its method on the device, as a cell prepares it: nothing unused, in its precision."""
        return to_precision(skip_unused(model.to(self.device), skipped), self.precision_name)

    @property
    def precision_name(self) -> str:
        """The precision on this device."""
        return precision_name(self.precision, self.device.type)

    def seconds_per_image(self, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Returns the median seconds of each function, interleaved, divided by the batch size."""
        seconds = interleaved(functions, self.device, self.rounds)
        return {name: value / self.batch_size for name, value in seconds.items()}


def method_cost(method: str, setup: Setup) -> dict[str, Any]:
    """Returns a method's parameters, the seconds and operations per image of step and evaluation, and the memory.

    `step_memory_bytes` is what the first step adds to the model: activations, gradients and the optimizer's state.
    `peak_memory_bytes` is the peak of the process. `plain_seconds` is a step of the backbone without the method: it
    trains the head, but passes the gradient through all blocks, as a method in the first block needs it.
    """
    images, labels = setup.random_batch()
    model = setup.prepare(with_method(method, setup.frozen_backbone(), (images.cpu(), labels.cpu())))
    step = training_step(model, images, labels, setup)
    memory = PeakMemory(setup.device)
    step()
    added, peak = memory.added(), peak_memory_bytes(setup.device)
    bare = setup.prepare(setup.frozen_backbone())
    seconds = setup.seconds_per_image(
        {
            "plain": training_step(bare, images.clone().requires_grad_(True), labels, setup),
            "step": step,
            "evaluation": evaluation_step(merge(copy.deepcopy(model)), images, setup),
        }
    )
    step_flops, evaluation_flops = count_flops(model, images, labels)
    return {
        **count_parameters(model),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "step_flops": step_flops,
        "evaluation_flops": evaluation_flops,
        "step_memory_bytes": added,
        "peak_memory_bytes": peak,
    }


def optimization_gains(setup: Setup) -> dict[str, dict[str, float]]:
    """Returns the seconds per image of LoRA's step and evaluation: with all optimizations, and without single ones."""
    images, labels = setup.random_batch()
    lora = with_method("lora", setup.frozen_backbone(drop_path=DROP_PATH)).to(setup.device)

    def model(skipped: Sequence[str] = SKIPPABLE) -> nn.Module:
        return setup.prepare(copy.deepcopy(lora), skipped)

    def step(model: nn.Module, *, fused: bool = True) -> Callable[[], Tensor]:
        return training_step(model, images, labels, setup, fused=fused)

    def evaluation(model: nn.Module) -> Callable[[], Tensor]:
        return evaluation_step(model, images, setup)

    steps = {
        "all optimizations": step(model()),
        "torch's matmul": with_torch_matmul(step(model())),
        "all tokens of the last block": step(model(("dropped_samples",))),
        "dropped samples computed": step(model(("last_block_tokens",))),
        "gradients of whole weights": step(disable_output_deltas(model())),
        "AdamW not fused": step(model(), fused=False),
        "no optimization": with_torch_matmul(step(disable_output_deltas(model(())), fused=False)),
    }
    evaluations = {
        "all optimizations": evaluation(merge(model())),
        "torch's matmul": with_torch_matmul(evaluation(merge(model()))),
        "all tokens of the last block": evaluation(merge(model(("dropped_samples",)))),
        "not merged": evaluation(disable_output_deltas(model())),
        "no optimization": with_torch_matmul(evaluation(disable_output_deltas(model(())))),
    }
    return {"step": setup.seconds_per_image(steps), "evaluation": setup.seconds_per_image(evaluations)}


def with_torch_matmul(function: Callable[[], object]) -> Callable[[], object]:
    """Returns a function that calls `function` with torch's own matrix products."""

    def call() -> None:
        backend = matmul_backend()
        set_matmul_backend("torch")
        function()
        set_matmul_backend(backend)

    return call


def with_method(method: str, model: nn.Module, *examples: Batch) -> nn.Module:
    """Attaches a method with the settings of its YAML and a fixed seed. Some methods read the example batches."""
    attach = instantiate(compose_config([f"method={method}", "task=cifar100"]), "method.attach", _partial_=True)
    return attach_method(model, attach, generator=torch.Generator().manual_seed(0), examples=lambda: examples)


@dataclass(frozen=True)
class RepeatedStep:
    """Takes one training step each time it is called. Its blocks stay compiled as long as it exists."""

    take: Callable[[], Tensor]
    compiled: ExitStack

    def __call__(self) -> Tensor:
        return self.take()


def training_step(
    model: nn.Module, images: Tensor, labels: Tensor, setup: Setup, *, fused: bool = True
) -> Callable[[], Tensor]:
    """Returns a function that takes one training step each time it is called."""
    mode, on_gpu = step_mode(setup.step, setup.device), setup.device.type == "cuda"
    lr = torch.tensor(LR, device=setup.device) if on_gpu else LR
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=lr, fused=fused, capturable=on_gpu)
    penalty, after_step = penalties(model), step_updates(model)
    compiled = ExitStack()
    forward = compiled.enter_context(forward_of(model, mode, batch_size=len(images)))

    def compute(_: Tensor, progress: Tensor) -> Tensor:
        return train_step(
            forward,
            optimizer,
            images,
            labels,
            partial(penalty, progress),
            partial(after_step, progress),
            precision=setup.precision_name,
        )

    take_step = StepRunner(
        compute,
        model=model,
        optimizer=optimizer,
        device=setup.device,
        record=recorder_for(mode, setup.device),
        falls_back=False,
    )
    indices = torch.arange(len(images), device=setup.device)
    return RepeatedStep(partial(take_step, indices, lr=LR, progress=0.0), compiled)


def evaluation_step(model: nn.Module, images: Tensor, setup: Setup) -> Callable[[], Tensor]:
    """Returns a function that evaluates one batch each time it is called."""
    model.eval()

    def evaluate() -> Tensor:
        with torch.inference_mode(), forward_context(images.device, setup.precision_name):
            return model(images)

    return evaluate
