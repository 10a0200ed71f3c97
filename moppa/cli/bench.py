"""How fast this is, and beside what: python scripts/bench.py [machine|methods|tricks|cell] or --against peft|plain.

machine  the rate of matrix products and of copies, which the other figures are held to
methods  a training step and a look of every method, each in a process of its own, beside the frozen backbone's step
tricks   what each thing that LoRA's step leaves out is worth
cell     where the seconds of one cell go; the words are run.py's: cell task=mini/digits backbone=vit_micro train=mini
--against peft|plain  an epoch and a test over JPEG files in an ordinary loop with HF peft's LoRA, or with ours

All of a part is measured in turn, round by round, and reported by medians; the JSON goes to results/benchmarks/.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from moppa.bench.cell import cell_phases
from moppa.bench.roofline import describe, measure_machine
from moppa.bench.steps import method_cost, optimization_gains
from moppa.bench.vs_peft import Work, compare
from moppa.train.loop import COMPILE_MODES
from moppa.utils.atomic import atomic_write
from moppa.utils.device import configure_process, get_device
from moppa.utils.errors import UserError
from moppa.utils.matmul import BACKENDS
from moppa.utils.paths import CONFIGS, ROOT

CONFIGS = CONFIGS
PARTS = ("machine", "methods", "tricks", "cell")
RIVALS = ("peft", "plain")


def main() -> int:
    """Measures one part, shows its table and writes its JSON."""
    asked = arguments()
    configure_process(asked.threads, asked.matmul_backend, keep_memory=asked.keep_memory)
    try:
        if asked.only:
            print(json.dumps(method_here(asked)))
        elif asked.against:
            against(asked)
        else:
            {"machine": machine_part, "methods": methods_part, "tricks": tricks_part, "cell": cell_part}[asked.part](
                asked
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    methods = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="methods")
    parser.add_argument("words", nargs="*", metavar="WORD", help="for cell: the words of run.py")
    parser.add_argument("--against", choices=RIVALS)
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="NAME")
    parser.add_argument("--timm", default="vit_base_patch16_224", metavar="MODEL")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, help="images a step: 8 on a CPU, 64 on a GPU")
    parser.add_argument("--images", type=int, default=256, help="for --against: images an epoch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--matmul-backend", choices=BACKENDS, default="auto", help="run.matmul_backend: %(choices)s (%(default)s)"
    )
    parser.add_argument(
        "--keep-memory", action=argparse.BooleanOptionalAction, default=True, help="run.keep_memory (%(default)s)"
    )
    parser.add_argument(
        "--compile", choices=COMPILE_MODES, metavar="MODE", help="run.compile, for methods: %(choices)s"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks", metavar="DIR")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a child: measures one method and prints JSON
    asked = parser.parse_args()
    asked.device = get_device("auto")
    asked.batch = asked.batch or (64 if asked.device.type == "cuda" else 8)
    return asked


def machine_part(asked: argparse.Namespace) -> None:
    """The machine's rates."""
    found = measure_machine(asked.device, rounds=asked.rounds)
    show("the machine", ("what", "measured"), [[name, readable(name, value)] for name, value in found.items()])
    keep(asked, "machine", found)


def methods_part(asked: argparse.Namespace) -> None:
    """Every method in a process of its own, so that its peak memory is its own; kept after each.

    What the file holds of other methods, measured at the same size, stays in it and in the table.
    """
    rates = measure_machine(asked.device, rounds=asked.rounds)
    name = f"methods-{asked.timm}" + (f"-compiled-{asked.compile}" if asked.compile else "")
    facts = {"machine": rates, "image_size": asked.image_size, "batch": asked.batch}
    earlier = json.loads(place(asked, name).read_text()) if place(asked, name).exists() else {}
    is_alike = all(earlier.get(key) == facts[key] for key in ("image_size", "batch"))
    found = earlier["methods"] if is_alike else {}
    for method in track(asked.methods, "measuring", console=Console(stderr=True)):
        found[method] = in_process(asked, method)
        keep(asked, name, {**facts, "methods": dict(sorted(found.items()))})
    rows = [
        [
            method,
            f"{one['trainable_params']:,}",
            f"{1000 * one['step_seconds']:.1f}",
            f"{one['step_seconds'] / one['plain_seconds']:.2f}",
            f"{100 * one['step_flops'] / one['step_seconds'] / rates['gemm_flops_per_second']:.0f} %",
            f"{1000 * one['look_seconds']:.1f}",
            f"{100 * one['look_flops'] / one['look_seconds'] / rates['gemm_flops_per_second']:.0f} %",
            f"{one['peak_memory_bytes'] / 1e9:.2f} GB",
        ]
        for method, one in sorted(found.items(), key=lambda item: item[1]["step_seconds"] / item[1]["plain_seconds"])
    ]
    columns = ("method", "parameters", "step, ms/image", "/ frozen", "of GEMM", "look, ms/image", "of GEMM", "memory")
    show(f"{asked.timm} at {asked.image_size} px, batch {asked.batch}, {rates['name']}", columns, rows)


def in_process(asked: argparse.Namespace, method: str) -> dict[str, Any]:
    """One method's figures, from a fresh process."""
    given = {"--timm": asked.timm, "--image-size": asked.image_size, "--batch": asked.batch, "--rounds": asked.rounds}
    given |= {"--matmul-backend": asked.matmul_backend}
    given |= {"--threads": asked.threads} if asked.threads else {}
    given |= {"--compile": asked.compile} if asked.compile else {}
    words = [str(word) for pair in given.items() for word in pair]
    words.append("--keep-memory" if asked.keep_memory else "--no-keep-memory")
    command = [sys.executable, __file__, "--only", method, *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def method_here(asked: argparse.Namespace) -> dict[str, Any]:
    """One method's figures."""
    size = {"size": asked.image_size, "batch": asked.batch, "device": asked.device, "rounds": asked.rounds}
    return method_cost(CONFIGS, asked.only, asked.timm, compiled=asked.compile, **size)


def tricks_part(asked: argparse.Namespace) -> None:
    """Each trick's gain: the time without it over the time with all."""
    size = {"size": asked.image_size, "batch": asked.batch, "device": asked.device, "rounds": asked.rounds}
    found = optimization_gains(CONFIGS, asked.timm, **size)
    rows = [
        [kind, name, f"{1000 * seconds:.2f}", f"{seconds / times['with everything']:.2f}"]
        for kind, times in found.items()
        for name, seconds in times.items()
    ]
    title = f"LoRA, {asked.timm} at {asked.image_size} px, batch {asked.batch}"
    show(title, ("what", "how", "ms/image", "over all tricks"), rows)
    keep(asked, f"tricks-{asked.timm}", {"machine": describe(asked.device), "batch": asked.batch, **found})


def cell_part(asked: argparse.Namespace) -> None:
    """The seconds of a cell by phase."""
    found = cell_phases(ROOT, asked.words)
    show(" ".join(asked.words), ("phase", "seconds"), [[name, f"{value:.1f}"] for name, value in found.items()])
    keep(asked, "cell", {"machine": describe(asked.device), "words": asked.words, "seconds": found})


def against(asked: argparse.Namespace) -> None:
    """Both sides' epoch and test, and the cell that is reckoned from them."""
    work = Work(
        configs=CONFIGS,
        timm=asked.timm,
        size=asked.image_size,
        batch=asked.batch,
        num_images=asked.images,
        device=asked.device,
    )
    found = compare(work, asked.against, rounds=asked.rounds)
    seconds, cell = found["seconds_per_image"], found["cell"]
    rows = [[name, f"{1000 * value:.2f} ms/image", ""] for name, value in seconds.items()]
    for what in ("epoch", "test"):
        ratio = seconds[f"{what}, {asked.against}"] / seconds[f"{what}, ours"]
        rows.append([f"{what}: {asked.against} / ours", "", f"{ratio:.2f}"])
    rows += [[f"cell, {name}", f"{value:.0f} s", f"{value / cell['ours']:.2f}"] for name, value in cell.items()]
    show(f"LoRA, {asked.timm} at {asked.image_size} px, batch {asked.batch}", ("what", "time", "ratio"), rows)
    facts = {"machine": describe(asked.device), "batch": asked.batch, "images": asked.images, "rounds": asked.rounds}
    keep(asked, f"against-{asked.against}-{asked.timm}", {**facts, **found})


def show(title: str, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """A table in the terminal."""
    table = Table(title=title)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def readable(name: str, value: Any) -> str:
    """A rate in thousands of millions."""
    return f"{value / 1e9:,.0f} G" if name.endswith("per_second") else str(value)


def keep(asked: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Writes the figures under the part's and the device's name."""
    with atomic_write(place(asked, name)) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n")


def place(asked: argparse.Namespace, name: str) -> Path:
    """Where they are written."""
    device = "".join(letter if letter.isalnum() else "-" for letter in describe(asked.device)["name"]).strip("-")
    return asked.out / f"{name}-{device}.json"


if __name__ == "__main__":
    sys.exit(main())
