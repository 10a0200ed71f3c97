"""The scripts for tables, comparisons, figures and the page, run as a user runs them, and their cost."""

import json
import resource
import shutil
import subprocess
import sys
import time
from itertools import islice, product
from unittest import mock

import pytest

from moppa.record.schema import key_of
from moppa.report.comparison import baselines, without_baseline
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError
from tests.conftest import ROOT
from tests.factories import path_of, record_of, write_record_file
from tests.run_script import script
from tests.test_configs import TASKS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(ROOT / "results" / "published.csv", folder / "published.csv")
    for method, percent in (("linear", 50), ("lora", 70), ("moppa", 69)):
        for task in ("dtd", "eurosat"):
            write_record_file(
                folder,
                "backbone=vit_b16_in21k",
                f"method={method}",
                f"task={task}",
                percent=percent,
                predictions=True,
                alone=True,
            )
    return folder


@pytest.mark.slow
def test_figures_show_our_rows_and_the_published_rows(results):
    process = script("figures", results, "--baseline", "lora")
    assert process.returncode == 0, process.stderr
    drawn = {path.name for path in (results / "figures").iterdir()}
    kinds = ("parameters", "heat-map", "groups", "critical-difference")
    assert {f"published-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")} <= drawn
    ours = (*kinds, "learning-curves", "cost")
    assert {f"vtab1k-vit_b16_in21k-final-{kind}.png" for kind in ours} <= drawn


def test_comparisons_have_intervals_and_paired_tests_and_say_why_there_is_no_test_over_tasks(results):
    process = script("compare", results, "--baseline", "moppa")
    assert process.returncode == 0, process.stderr
    text = (results / "tables" / "vtab1k-vit_b16_in21k-final-compare.md").read_text(encoding="utf-8")
    assert "Differences from moppa" in text
    assert "50.0 [" in text
    assert " p " in text
    assert "No test over tasks" in text  # no row is complete
    assert "Friedman: chi-squared" in (results / "tables" / "published.md").read_text(encoding="utf-8")


def test_an_unknown_baseline_is_an_error_that_lists_the_rows(results):
    process = script("compare", results, "--baseline", "nosuch")
    assert process.returncode == 1
    assert "'nosuch'" in process.stderr
    assert "linear, moppa, lora" in process.stderr


def test_a_baseline_is_looked_up_table_by_table():
    def table(name, *methods):
        rows = [mock.Mock(spec=Row, method=method) for method in methods]
        for row in rows:
            row.name = f"{row.method} (lr 1)"  # the argument would name the mock
        made = mock.Mock(spec=Table, rows=rows)
        made.name = name
        return made

    tables = [table("first", "linear", "lora"), table("second", "ssf"), table("empty")]
    assert baselines(tables, None) == {"first": None, "second": None}
    names = baselines(tables, "lora")
    assert names == {"first": "lora", "second": None}
    assert without_baseline(names, "lora") == "second: it has no row 'lora', so its smallest row is the baseline\n"
    with pytest.raises(UserError, match=r"'moppa'.* first: linear"):
        baselines(tables, "moppa")


@pytest.mark.slow  # other tests make pages, too
def test_the_page_is_written(results):
    process = script("report", results)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [str(results / "report" / name) for name in ("index.html", "vega.js")]


def test_the_terminal_shows_the_numbers_and_lists_empty_columns(results):
    process = script("tables", results)
    assert process.returncode == 0, process.stderr
    for text in ("lora", "70.0", "EuroSAT", "Not run yet: CIFAR-100", "digest"):
        assert text in process.stdout, text


@pytest.fixture(scope="module")
def many_results(tmp_path_factory):
    """10,000 records with 100 epochs each: rows of several learning rates and epochs, on all tasks, three seeds."""
    folder = tmp_path_factory.mktemp("many")
    plain = {task: record_of("method=lora", f"task={task}", epochs=100) for task in TASKS}
    for epochs, step, task, seed in islice(product(range(1, 20), range(1, 11), TASKS, range(3)), 10_000):
        config = json.loads(json.dumps(plain[task]["config"]))
        config["train"] |= {"lr": step / 1000, "epochs": epochs}
        config["seed"] = seed
        correct = int(plain[task]["total"] * (0.5 + 0.01 * step + 0.005 * epochs + 0.001 * seed))
        written = plain[task] | {
            "config": config,
            "seed": seed,
            "key": key_of(config, "w" * 64, "float32"),
            "correct": correct,
        }
        path = folder / "records" / path_of(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(written), encoding="utf-8")
    return folder


def cpu_seconds(run):
    """Returns what a function returns, and the CPU time of the processes that it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_a_table_of_ten_thousand_records_takes_five_seconds_of_one_core(many_results):
    """The CPU time counts, with the start of the interpreter. A busy machine may take 4 times as long as for JSON."""
    process, seconds = cpu_seconds(lambda: script("tables", many_results, "--quiet", measured=True))
    assert process.returncode == 0, process.stderr
    read_json = (
        "import json, pathlib, sys; [json.loads(p.read_bytes()) for p in pathlib.Path(sys.argv[1]).rglob('*.json')]"
    )
    _, json_seconds = cpu_seconds(lambda: subprocess.run([sys.executable, "-c", read_json, many_results], check=True))
    assert seconds < max(5, 4 * json_seconds)


@pytest.mark.slow
def test_a_page_of_ten_thousand_records_has_less_than_five_megabytes_and_opens_in_two_seconds(many_results):
    from tests.report.test_page import CHROMIUM, DRIVER, wait

    process = script("report", many_results)
    assert process.returncode == 0, process.stderr
    assert sum(path.stat().st_size for path in (many_results / "report").iterdir()) < 5e6
    selenium = pytest.importorskip("selenium.webdriver")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs a Chromium and its chromedriver to open it")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER)) as browser:
        start = time.monotonic()
        browser.get((many_results / "report" / "index.html").as_uri())
        wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
        assert time.monotonic() - start < 2
