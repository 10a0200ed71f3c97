"""The sentences of a table's caption: protocol, seeds, data, code, and what the marks on numbers mean."""

from collections.abc import Mapping, Sequence

from moppa.report.load import ValidRecord, digest_records
from moppa.report.significance import TEST

PROTOCOLS = {
    "final": "models are trained on the 1000 training images, and the test set is evaluated once, after the last epoch",
    "best_on_test": "the test set is evaluated many times, so this is a diagnostic and not a result",
    "tune": "models are trained on train800 and evaluated on val200 after the last epoch, never on the test set",
}


def table_facts(records: Sequence[ValidRecord], shared: Mapping[str, str], protocol: str) -> list[str]:
    """Returns the sentences of the caption of a table.

    Args:
        records: the records that the table counts.
        shared: the settings that all rows share.
        protocol: of all records.
    """
    seeds = sorted({record["seed"] for record in records})
    commits = sorted({format_commit(record["git"]) for record in records})
    split_checks = sorted({record["split"]["verdict"] for record in records})
    meaning = f": {PROTOCOLS[protocol]}" if protocol in PROTOCOLS else ""
    settings = "; ".join(f"{name} {value}" for name, value in shared.items())
    return [
        f"Accuracy in percent, protocol {protocol}{meaning}.",
        f"Seeds {', '.join(map(str, seeds))}; a cell with several seeds shows mean ± standard deviation.",
        f"Split check: {', '.join(split_checks)}.",
        *([f"All rows share: {settings}."] if settings else []),
        f"Commit {', '.join(commits)} (+ means local changes).",
        f"Computed from {len(records)} records, digest {digest_records(records)}.",
        f"Bold is best and underlined is second, each only if it exceeds the next row significantly: {TEST}.",
        "– means not run.",
    ]


def format_commit(git: Mapping[str, object]) -> str:
    """Returns the first ten digits of a commit, with + if there were local changes."""
    return f"{git['commit'] or 'none'}"[:10] + "+" * bool(git["dirty"])
