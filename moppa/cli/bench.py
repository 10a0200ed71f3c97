"""Measures the speed: moppa bench [machine|methods|optimizations|cell] or moppa bench --against peft|plain.

machine        the throughput of matrix products and of copies, the upper bounds for everything else
methods        a training step and an evaluation of every method, each in a fresh process, over the frozen backbone's
optimizations  LoRA's step and evaluation without single optimizations
cell           the seconds of a cell by phase, with overrides: cell task=mini/digits backbone=vit_micro train=mini
--against      an epoch and a test pass over JPEG files in an ordinary loop, with HF peft's LoRA (peft) or ours (plain)

Times are medians of interleaved rounds. Each result is also written as JSON to outputs/benchmarks/; with
--out results/benchmarks it replaces a committed one.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

from moppa.bench.cell import cell_phases
from moppa.bench.output import METHOD_COLUMNS, method_rows, output_path, print_table, save_json
from moppa.bench.roofline import describe_machine, measure_machine
from moppa.bench.steps import Setup, method_cost, optimization_gains
from moppa.bench.vs_peft import compare
from moppa.cli.errors import prints_errors
from moppa.train.step import STEPS
from moppa.utils.device import configure_process, get_device
from moppa.utils.gpu import DTYPES
from moppa.utils.matmul import BACKENDS
from moppa.utils.paths import CONFIGS, MOPPA_COMMAND, ROOT, user_path

PARTS = ("machine", "methods", "optimizations", "cell")
RIVALS = ("peft", "plain")


@prints_errors()
def main() -> int:
    """Measures one part, prints its table and writes its JSON."""
    arguments = parse_arguments()
    setup = Setup(
        timm_name=arguments.timm,
        image_size=arguments.image_size,
        batch_size=arguments.batch,
        device=arguments.device,
        rounds=arguments.rounds,
        step=arguments.step,
        precision=arguments.precision,
    )
    configure_process(threads=arguments.threads, backend=arguments.matmul_backend, keep_memory=arguments.keep_memory)
    if arguments.only:
        print(json.dumps(method_cost(arguments.only, setup)))
    elif arguments.against:
        run_comparison(arguments, setup)
    elif arguments.part == "machine":
        run_machine(arguments)
    elif arguments.part == "methods":
        run_methods(arguments, setup)
    elif arguments.part == "optimizations":
        run_optimizations(arguments, setup)
    else:
        run_cell(arguments)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments, with the device."""
    methods = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", nargs="?", choices=PARTS, default="methods")
    add("overrides", nargs="*", metavar="OVERRIDES", help="for cell: overrides for run.py")
    add("--against", choices=RIVALS)
    add("--methods", nargs="+", choices=methods, default=methods, metavar="NAME")
    add("--timm", default="vit_base_patch16_224", metavar="MODEL", help="%(default)s")
    add("--image-size", type=int, default=224, help="%(default)s")
    add("--batch", type=int, help="images per step: 8 on a CPU, 64 on a GPU")
    add("--images", type=int, default=256, help="images per epoch, for --against: %(default)s")
    add("--rounds", type=int, default=5, help="%(default)s")
    add("--threads", type=int, help="run.threads")
    add("--matmul-backend", choices=BACKENDS, default="auto", help="run.matmul_backend: %(default)s")
    add("--keep-memory", action=argparse.BooleanOptionalAction, default=True, help="run.keep_memory: %(default)s")
    add("--step", choices=STEPS, default="auto", help="run.step: %(default)s")
    add("--precision", choices=("auto", *DTYPES), default="auto", help="run.precision: %(default)s")
    add("--out", type=user_path, default=ROOT / "outputs" / "benchmarks", metavar="DIR", help="folder for the JSON")
    add("--only", help=argparse.SUPPRESS)  # in a child process: measure one method and print JSON
    arguments = parser.parse_args()
    arguments.device = get_device("auto")
    arguments.batch = arguments.batch or (64 if arguments.device.type == "cuda" else 8)
    return arguments


def run_machine(arguments: argparse.Namespace) -> None:
    """Measures the machine."""
    machine = measure_machine(arguments.device, rounds=arguments.rounds)
    rows = [
        [name, f"{value / 1e9:,.0f} G" if name.endswith("per_second") else str(value)]
        for name, value in machine.items()
    ]
    print_table("the machine", ("what", "measured"), rows)
    save_json(output_path(arguments.out, "machine", arguments.device), machine)


def run_methods(arguments: argparse.Namespace, setup: Setup) -> None:
    """Measures every method in a process of its own, because the peak memory counts per process.

    Results of other methods stay in the file and in the table if their image and batch size are the same.
    """
    machine = measure_machine(setup.device, rounds=setup.rounds)
    name = "-".join(
        ["methods", setup.timm_name, *[value for value in (setup.step, setup.precision) if value != "auto"]]
    )
    facts = {"machine": machine, "image_size": setup.image_size, "batch": setup.batch_size}
    path = output_path(arguments.out, name, setup.device)
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    is_comparable = all(earlier.get(key) == facts[key] for key in ("image_size", "batch"))
    costs = earlier["methods"] if is_comparable else {}
    for method in track(arguments.methods, "measuring", console=Console(stderr=True)):
        costs[method] = measure_in_process(arguments, method)
        save_json(path, {**facts, "methods": dict(sorted(costs.items()))})
    title = f"{setup.timm_name} at {setup.image_size} px, batch {setup.batch_size}, {machine['name']}"
    print_table(title, METHOD_COLUMNS, method_rows(costs, machine["gemm_flops_per_second"]))


def measure_in_process(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """Returns `method_cost` of a method, measured in a fresh process."""
    options = {
        "--timm": arguments.timm,
        "--image-size": arguments.image_size,
        "--batch": arguments.batch,
        "--rounds": arguments.rounds,
        "--matmul-backend": arguments.matmul_backend,
        "--threads": arguments.threads,
        "--step": arguments.step,
        "--precision": arguments.precision,
    }
    words = [str(word) for option in options.items() if option[1] is not None for word in option]
    words.append("--keep-memory" if arguments.keep_memory else "--no-keep-memory")
    command = [*MOPPA_COMMAND, "bench", "--only", method, *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def run_optimizations(arguments: argparse.Namespace, setup: Setup) -> None:
    """Measures the gain of each optimization: the time without it over the time with all."""
    gains = optimization_gains(setup)
    rows = [
        [kind, name, f"{1000 * seconds:.2f}", f"{seconds / times['all optimizations']:.2f}"]
        for kind, times in gains.items()
        for name, seconds in times.items()
    ]
    title = f"LoRA, {setup.timm_name} at {setup.image_size} px, batch {setup.batch_size}"
    print_table(title, ("what", "with", "ms/image", "over all optimizations"), rows)
    facts = {"machine": describe_machine(setup.device), "batch": setup.batch_size}
    save_json(output_path(arguments.out, f"optimizations-{setup.timm_name}", setup.device), {**facts, **gains})


def run_cell(arguments: argparse.Namespace) -> None:
    """Measures the phases of a cell."""
    seconds = cell_phases(arguments.overrides)
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    print_table(" ".join(arguments.overrides), ("phase", "seconds"), rows)
    facts = {"machine": describe_machine(arguments.device), "overrides": arguments.overrides}
    save_json(output_path(arguments.out, "cell", arguments.device), {**facts, "seconds": seconds})


def run_comparison(arguments: argparse.Namespace, setup: Setup) -> None:
    """Measures epoch and test of both sides, and extrapolates to a cell."""
    rival = arguments.against
    comparison = compare(setup, rival, num_images=arguments.images)
    seconds, cell = comparison["seconds_per_image"], comparison["cell"]
    rows = [[name, f"{1000 * value:.2f} ms/image", ""] for name, value in seconds.items()]
    for name in ("epoch", "test"):
        ratio = seconds[f"{name}, {rival}"] / seconds[f"{name}, ours"]
        rows.append([f"{name}: {rival} / ours", "", f"{ratio:.2f}"])
    rows += [[f"cell, {name}", f"{value:.0f} s", f"{value / cell['ours']:.2f}"] for name, value in cell.items()]
    title = f"LoRA, {setup.timm_name} at {setup.image_size} px, batch {setup.batch_size}"
    print_table(title, ("what", "time", "ratio"), rows)
    facts = {
        "machine": describe_machine(setup.device),
        "batch": setup.batch_size,
        "images": arguments.images,
        "rounds": setup.rounds,
    }
    path = output_path(arguments.out, f"against-{rival}-{setup.timm_name}", setup.device)
    save_json(path, {**facts, **comparison})


if __name__ == "__main__":
    sys.exit(main())
