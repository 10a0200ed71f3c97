"""Compares the methods with their authors' code: moppa official FILE.

FILE (official_methods.npz) holds logits and input gradients that the authors' code computed; it is not distributed.
Writes the errors to results/official.csv, from which `moppa docs` makes the table in docs/methods.md.

Exit status: 0 if every error is below 1e-10, 1 otherwise.
"""

import argparse
import sys

from moppa.bench.official import Reference, measure, read_cases, write_cases
from moppa.cli.errors import prints_errors
from moppa.utils.paths import user_path

LIMIT = 1e-10


@prints_errors()
def main() -> int:
    """Measures every case, prints one line for each, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=user_path)
    reference, cases = Reference(user_path(parser.parse_args().file)), read_cases()
    for case in cases:
        errors = measure(case, reference)
        case |= {name: f"{value:.0e}" for name, value in errors.items()}
        print(f"{case['case']} {case['method']:<16}{case['logits']:>7}{case['input_gradient']:>7}  {case['settings']}")
    write_cases(cases)
    return int(any(float(case[name]) > LIMIT for case in cases for name in ("logits", "input_gradient")))


if __name__ == "__main__":
    sys.exit(main())
