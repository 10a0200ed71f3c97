"""Measures the peak memory of merging algorithms on generated experts of a ViT-B/16, each in a process of its own.

    moppa bench-merging ALGORITHM ... --folder DIR [--rank 8] [--only REGEX] [--set steps=1]

The experts are written to DIR if they are not there: 19 dense ones are 6.5 GB. With --only some tensors are merged,
which is enough for the peak of an algorithm that treats one matrix after another.
"""

import argparse
import json
import subprocess
import sys
import time

from moppa.utils.paths import CONFIGS, user_path

ALGORITHMS = sorted(path.stem for path in (CONFIGS / "merge").glob("*.yaml"))


def main() -> None:
    """Prints a line for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="+", choices=ALGORITHMS, metavar="ALGORITHM")
    parser.add_argument("--folder", type=user_path, required=True, metavar="DIR", help="where the experts are written")
    parser.add_argument("--backbone", default="vit_b16_in21k", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--experts", type=int, default=19, metavar="COUNT", help="default: %(default)s")
    parser.add_argument("--rank", type=int, help="of the deltas; default: dense ones of all tensors")
    parser.add_argument("--only", default="", metavar="REGEX", help="merge only tensors with such names")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the algorithm")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)  # in a child process
    args = parser.parse_args()
    if not args.json:
        for name in args.algorithms:
            words = [word for word in sys.argv[1:] if word not in args.algorithms]
            command = [sys.executable, "-m", "moppa.cli.main", "bench-merging", name, *words, "--json"]
            done = subprocess.run(command, capture_output=True, text=True)
            print(f"{name:<16} {done.stdout.strip() or done.stderr.strip()}", flush=True)
        return
    from moppa.bench.merging import merge_peak  # torch

    start = time.monotonic()
    peak = merge_peak(
        args.algorithms[0],
        args.folder,
        backbone=args.backbone,
        count=args.experts,
        rank=args.rank,
        only=args.only,
        settings=args.set,
    )
    print(json.dumps({"peak_gb": peak and round(peak / 1e9, 2), "seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()
