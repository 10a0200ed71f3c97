"""Verifies records: moppa verify [RESULTS] [--reevaluate] [--rerun K].

RESULTS is a results folder, the records folder in it, or a pack of `moppa submit`, zipped or not. The packs that were
added to a results folder are verified too.

Checks that every record agrees with itself, its path, its predictions and its kept tensors; that its protocol and task
are those of that name; that the tune records it names say what it states; that no seed is a copy of another; that all
records of a task have the same labels; that the number of trained parameters is the one that the config gives; and that
the commit exists in this checkout. Of a pack also that its files are those that were packed. Warns if the seeds of a
cell were computed on different kinds of devices.

The records of merges are verified too: their counts, the choice of their scale, their key, and the experts' records.

--reevaluate loads the trained tensors if they were kept, evaluates them again, and compares the predictions. It needs
the backbone's weights and the images; nothing is downloaded. If they are not where the records say:
moppa verify results --reevaluate data.dir=DIR data.cache=DIR backbone.weights=FILE

--rerun K draws K records at random, runs their cells again, and compares. With the same code on the same kind of
machine every byte of the predictions must be equal. Elsewhere the numbers of correct predictions may differ by three
times the square root of the number of images that only one of the runs gets right, and by 0.5 % of the images.
moppa verify pack.zip --rerun 3 data.dir=DIR

Exit status: 0 if there is nothing wrong, 1 otherwise.
"""

import argparse
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moppa.cli.errors import prints_errors
from moppa.record.merge_schema import is_merge, merge_paths, read_merge_record
from moppa.record.pack import MANIFEST, find_pack_problems, opened, read_manifest
from moppa.record.recount import find_other_count
from moppa.record.schema import read_record
from moppa.record.submitted import submitted_packs
from moppa.record.verify import Finding, verify_records
from moppa.record.verify_merges import verify_merges
from moppa.utils.errors import UserError
from moppa.utils.paths import ROOT, user_path
from moppa.utils.provenance import has_commit


@prints_errors()
def main() -> int:
    """Prints one line for each problem, and how many records were verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument("--no-recount", action="store_true", help="do not build models to count their parameters")
    parser.add_argument("--reevaluate", nargs="*", metavar="NAME=VALUE", help="evaluate kept tensors again")
    parser.add_argument("--rerun", nargs="+", metavar=("K", "NAME=VALUE"), help="run K cells again")
    parser.add_argument("--draw", type=int, metavar="SEED", help="which cells --rerun draws; default: at random")
    args = parser.parse_args()
    given = args.results.parent if args.results.name == "records" else args.results
    with opened(given) as results:
        places = {results: given, **{folder: folder for folder in submitted_packs(results)}}
        return max(
            verify(
                folder,
                shown,
                counts_parameters=not args.no_recount,
                reevaluate=args.reevaluate,
                rerun=args.rerun,
                draw=args.draw,
            )
            for folder, shown in places.items()
        )


def verify(
    results: Path,
    given: Path,
    *,
    counts_parameters: bool = True,
    reevaluate: Sequence[str] | None = None,
    rerun: Sequence[str] | None = None,
    draw: int | None = None,
) -> int:
    """Prints the problems of a results folder, which the user gave as `given`, and returns the exit status.

    The options are those of the command; without one its check is left out.

    Raises:
        UserError: if there are no records, or an option has a bad value.
    """
    root, shown = results / "records", given / "records"
    cells, merges = sorted(root.rglob("seed*.json")), merge_paths(results)
    paths = [*cells, *merges]
    if not paths:
        raise UserError(f"there are no records in {shown}")
    problems = manifest_problems(results)
    verification = verify_records(results)
    findings = [*verification.findings, *verify_merges(results)]
    found = {finding.path for finding in findings}
    sound, merged = ([path for path in of if path.relative_to(root).as_posix() not in found] for of in (cells, merges))
    for path in (*sound, *merged):
        of_path = (
            commit_problems(read_merge_record(path)[0]) if is_merge(path) else deep_problems(path, counts_parameters)
        )
        findings += [Finding(path=path.relative_to(root).as_posix(), problem=problem) for problem in of_path]
    if reevaluate is not None:
        settings = dict(parse_setting("--reevaluate", text) for text in reevaluate)
        findings += repeat_all([*sound, *merged], root, "evaluated", reevaluator(settings))
    if rerun is not None:
        findings += rerun_some(sound, root, rerun, draw)
    for warning in verification.warnings:
        print(f"warning: {shown / warning.path}: {warning.problem}")
    for problem in problems:
        print(f"{given / MANIFEST}: {problem}")
    for finding in findings:
        print(f"{shown / finding.path}: {finding.problem}")
    bad = {finding.path for finding in findings}
    print(f"{len(paths) - len(bad)} of {len(paths)} records verified in {shown}")
    return 1 if findings or problems else 0


def manifest_problems(results: Path) -> list[str]:
    """Prints who sent a pack, and returns how its files differ from its manifest; nothing of a folder without one."""
    manifest = read_manifest(results)
    if manifest is None:
        return []
    print(f"sent by {manifest['sender']}, packed {manifest['when']}, commits {', '.join(manifest['commits'])}")
    return find_pack_problems(results, manifest)


def parse_setting(option: str, text: str) -> tuple[str, str]:
    """Returns the name and the value of NAME=VALUE.

    Raises:
        UserError: if there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} {text}: expected NAME=VALUE, for example data.dir=DIR; give RESULTS before it")
    return name, value


def reevaluator(settings: dict[str, str]) -> Callable[[Path], str]:
    """Returns a function that evaluates the kept tensors of a record again and says what differs."""
    from moppa.merging.reevaluate import reevaluate_merge
    from moppa.record.reevaluate import reevaluate

    return lambda path: (reevaluate_merge if is_merge(path) else reevaluate)(path, settings)


def rerun_some(sound: Sequence[Path], root: Path, words: Sequence[str], seed: int | None) -> list[Finding]:
    """Runs randomly drawn cells again and returns the problems.

    Raises:
        UserError: if the first word is no number of at least 1, or another one is no setting.
    """
    from moppa.cli.rerun import rerun
    from moppa.record.rerun import draw_records

    number, *others = words
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"--rerun {number}: expected how many cells are run again, an integer of at least 1")
    settings = dict(parse_setting("--rerun", text) for text in others)
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    print(f"cells drawn to be run again with --draw {seed}")
    return repeat_all(draw_records(sound, int(number), seed), root, "run", lambda path: rerun(path, settings))


def repeat_all(paths: Sequence[Path], root: Path, verb: str, repeat: Callable[[Path], str]) -> list[Finding]:
    """Repeats cells, prints how many and why others could not be, and returns the problems."""
    from moppa.record.reevaluate import NotEvaluatedError

    findings, reasons = [], dict[str, int]()
    for path in paths:
        try:
            problem = repeat(path)
        except NotEvaluatedError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
            continue
        if problem:
            findings.append(Finding(path=path.relative_to(root).as_posix(), problem=problem))
    for reason, count in reasons.items():
        print(f"not {verb} again: {count} {'record' if count == 1 else 'records'}: {reason}")
    print(f"{len(paths) - sum(reasons.values())} of {len(paths)} records {verb} again")
    return findings


def deep_problems(path: Path, counts_parameters: bool) -> list[str]:
    """Returns what is wrong with a record as far as this checkout and its models can tell."""
    record = read_record(path)
    problems = []
    if counts_parameters:
        try:
            problems.append(find_other_count(record))
        except UserError as error:
            problems.append(str(error))
    return [problem for problem in (*problems, *commit_problems(record)) if problem]


def commit_problems(record: Mapping[str, Any]) -> list[str]:
    """Returns a problem if the commit of a record is not in this repository."""
    commit = record["git"]["commit"]
    return [f"its commit {commit[:12]} is not in this repository"] if commit and has_commit(commit) is False else []


if __name__ == "__main__":
    sys.exit(main())
