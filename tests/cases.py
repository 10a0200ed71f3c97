"""Runs the cases in ../shared/cases, and prints one line for each: python tests/cases.py [NN ...].

A case is a folder with `repro.sh CHECKOUT PYTHON`, which exits with 0 if the product behaves as it should. The status
is 1 if a case fails, and 0 if there are no cases on this machine.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = Path(os.environ.get("MOPPA_SHARED") or ROOT.parent / "shared") / "cases"
LIMIT_SECONDS = 600


def main() -> int:
    """Runs all cases, or those whose numbers are given, one after another."""
    chosen = set(sys.argv[1:])
    scripts = [
        path for path in sorted(CASES.glob("[0-9][0-9]-*/repro.sh")) if not chosen or path.parent.name[:2] in chosen
    ]
    if not scripts:
        print(f"skipped: no cases in {CASES}")
        return 0
    failed = [script.parent.name for script in scripts if not passes(script)]
    print(
        f"{len(scripts) - len(failed)} of {len(scripts)} cases pass" + (f"; not {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def passes(script: Path) -> bool:
    """Runs a case, prints how it ended, and returns whether it passed."""
    command = ["bash", str(script), str(ROOT), sys.executable]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS)
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, output = 124, f"it ran longer than {LIMIT_SECONDS} seconds"
    first = next((line for line in output.splitlines() if line.strip()), "")
    print(
        f"{'pass' if status == 0 else 'FAIL'} {script.parent.name}" + ("" if status == 0 else f": {first}"), flush=True
    )
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
