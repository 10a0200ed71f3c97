"""What every method adds to a training step: python scripts/bench_methods.py [--methods lora ssf] [--rounds 5].

One step is forward, backward and AdamW on random images; beside it, in turn, the same frozen backbone trained by its
head alone but with the gradient carried through all of it, as a method at the first block would need. ViT-B/16 at 224
px; batch 8 on a CPU, 64 on a GPU. Every method runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from moppa.backbone import num_parameters
from moppa.configured import make, offer
from moppa.files import whole_file
from moppa.machine import arithmetic, device_named, facts_of, in_turn, peak_memory_bytes
from moppa.touch import penalty, trainable

CONFIGS = Path(__file__).parent.parent.resolve() / "configs"


def main() -> None:
    """Prints the table, and writes it as JSON where asked."""
    methods = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timm", default="vit_base_patch16_224", metavar="MODEL")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a child: measures one method and prints JSON
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measure(asked.only, asked.rounds, asked.timm, asked.image_size)))
        return
    given = ["--rounds", str(asked.rounds), "--timm", asked.timm, "--image-size", str(asked.image_size)]
    device, found = device_named("auto"), {}
    for method in track(asked.methods, "measuring"):
        found[method] = in_process(method, given)
        if asked.json:  # after each, so that a long run that is stopped has measured something
            with whole_file(asked.json) as temporary:
                temporary.write_text(json.dumps({"device": facts_of(device), "methods": found}, indent=2) + "\n")
    show(found, f"{asked.timm} at {asked.image_size} px, {facts_of(device)['name']}")


def in_process(method: str, given: list[str]) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--only", method, *given]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(method: str, rounds: int, timm_name: str, size: int) -> dict[str, Any]:
    """Parameters, median seconds of a step with and without the method, and the peak memory of the first."""
    device = device_named("auto")
    batch = 64 if device.type == "cuda" else 8
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % 10
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("cell", overrides=[f"method={method}", "task=cifar100"])

    model = frozen(timm_name, size, device)
    generator = torch.Generator().manual_seed(0)
    offer(
        make(config, "method.attach", _partial_=True), model, generator=generator, examples=lambda: [(images, labels)]
    )
    step = step_of(model.to(device), images, labels)
    step()
    peak = peak_memory_bytes(device)
    plain = step_of(frozen(timm_name, size, device), images.clone().requires_grad_(True), labels)
    seconds = in_turn({"plain": plain, "method": step}, device, rounds)
    return {**num_parameters(model), **seconds, "peak_memory_bytes": peak}


def frozen(timm_name: str, size: int, device: torch.device) -> nn.Module:
    """A backbone with random weights, of which the head is trained."""
    model = timm.create_model(timm_name, img_size=size, num_classes=10).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model.to(device).train()


def step_of(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    """A training step, to be called again and again."""
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-4)

    def step() -> None:
        with arithmetic(images.device):
            loss = F.cross_entropy(model(images), labels) + penalty(model, 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def show(found: dict[str, dict[str, Any]], what: str) -> None:
    """The figures as a table, cheapest first."""
    table = Table(title=f"training step, {what}, median")
    for name in ("method", "parameters", "step", "relative to the frozen backbone", "peak memory"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, one in sorted(found.items(), key=lambda item: item[1]["method"] / item[1]["plain"]):
        table.add_row(
            method,
            f"{one['trainable_params']:,}",
            f"{one['method']:.3f} s",
            f"{one['method'] / one['plain']:.2f}",
            f"{one['peak_memory_bytes'] / 1e9:.2f} GB",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
