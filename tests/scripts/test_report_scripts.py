"""The scripts that make pictures, comparisons and the page, as a user starts them; and what they cost."""

import json
import resource
import shutil
import time

import pytest

from moppa.record.schema import key_of
from tests.conftest import ROOT
from tests.factories import place_of, put, record_of
from tests.run_script import script
from tests.test_configs import TASKS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    shutil.copy(ROOT / "results" / "published.csv", folder / "published.csv")
    for method, percent in (("linear", 50), ("lora", 70), ("moppa", 69)):
        for task in ("dtd", "eurosat"):
            put(folder, "backbone=vit_b16_in21k", f"method={method}", f"task={task}", percent=percent, predictions=True)
    return folder


@pytest.mark.slow
def test_figures_are_drawn_of_ours_and_of_the_published_rows(results):
    done = script("figures", results, "--baseline", "lora")
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in (results / "figures").iterdir()}
    kinds = ("parameters", "heat-map", "groups", "critical-difference")
    assert {f"published-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")} <= drawn
    ours = (*kinds, "learning-curves", "cost")
    assert {f"vtab1k-vit_b16_in21k-final-{kind}.png" for kind in ours} <= drawn


def test_comparisons_say_intervals_paired_tests_and_why_there_is_none_over_tasks(results):
    done = script("compare", results, "--baseline", "moppa")
    assert done.returncode == 0, done.stderr
    text = (results / "tables" / "vtab1k-vit_b16_in21k-final-compare.md").read_text()
    assert "Differences from moppa" in text
    assert "50.0 [" in text
    assert " p " in text
    assert "No test over tasks" in text  # no row is whole
    assert "Friedman: chi-squared" in (results / "tables" / "published.md").read_text()


def test_a_baseline_that_is_no_row_is_named(results):
    done = script("compare", results, "--baseline", "nosuch")
    assert done.returncode == 1
    assert "'nosuch'" in done.stderr
    assert "linear, moppa, lora" in done.stderr


def test_the_page_is_made(results):
    done = script("report", results)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(results / "report" / name) for name in ("index.html", "vega.js")]


def test_the_terminal_shows_the_numbers_and_names_what_is_empty(results):
    done = script("tables", results)
    assert done.returncode == 0, done.stderr
    for text in ("lora", "70.0", "EuroSAT", "no number yet: CIFAR-100", "digest"):
        assert text in done.stdout, text


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """10,000 records with 100 epochs each: rows that differ in rate and length, on all tasks, three seeds."""
    folder = tmp_path_factory.mktemp("many")
    plain = {task: record_of("method=lora", f"task={task}", epochs=100) for task in TASKS}
    cells = [
        (rate, epochs, task, seed)
        for epochs in range(1, 20)
        for rate in range(1, 11)
        for task in TASKS
        for seed in range(3)
    ]
    for rate, epochs, task, seed in cells[:10_000]:
        config = json.loads(json.dumps(plain[task]["config"]))
        config["train"] |= {"lr": rate / 1000, "epochs": epochs}
        config["seed"] = seed
        correct = int(plain[task]["total"] * (0.5 + 0.01 * rate + 0.005 * epochs + 0.001 * seed))
        written = plain[task] | {"config": config, "seed": seed, "key": key_of(config, "w" * 64), "correct": correct}
        path = folder / "records" / place_of(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(written))
    return folder


@pytest.mark.slow
def test_ten_thousand_records_are_a_table_in_five_seconds(many):
    """Of one core, start of the interpreter included: what else the machine does is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script("tables", many, "--quiet", measured=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


@pytest.mark.slow
def test_ten_thousand_records_are_a_page_of_less_than_five_megabytes_that_opens_in_two_seconds(many):
    from tests.report.test_page import CHROMIUM, DRIVER, wait

    done = script("report", many)
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in (many / "report").iterdir()) < 5e6
    selenium = pytest.importorskip("selenium.webdriver")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs a Chromium and its chromedriver to open it")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER)) as browser:
        start = time.monotonic()
        browser.get((many / "report" / "index.html").as_uri())
        wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
        assert time.monotonic() - start < 2
