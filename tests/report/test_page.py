"""The page in a headless Chromium, opened from its folder: sort, filter, cells, themes, keys, escaping, charts."""

import json
import re
import shutil
import time

import pytest

from moppa.report.build import read_tables
from moppa.report.page import write_page
from tests.conftest import CONFIGS, ROOT
from tests.factories import write_record_file

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


def make_page(results):
    """Writes the page of three methods beside published rows; the name of one row holds markup."""
    shutil.copy(ROOT / "results" / "published.csv", results / "published.csv")
    backbone = "backbone=vit_b16_in21k"
    for method, percent in (("linear", 60), ("lora", 80), ("moppa", 70)):
        for seed in (0, 1):
            write_record_file(
                results,
                backbone,
                f"method={method}",
                "task=svhn",
                seed=seed,
                percent=percent + seed,
                predictions=True,
                alone=True,
            )
    write_record_file(results, backbone, "method=lora", "task=dtd", percent=65, predictions=True)
    for task in ("svhn", "dtd"):
        write_record_file(
            results,
            backbone,
            "method=lora",
            f"task={task}",
            "+train.note='<script>document.title=1</script>'",
            percent=50,
        )
    tables, _ = read_tables(results, CONFIGS)
    return write_page(tables, results / "report")


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="session")  # a worker may come back to this module
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser: pip install selenium")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs a Chromium and its chromedriver (Debian: apt install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1000"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # no network
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, index):
    """The page, newly opened; the browser's console must be empty afterwards."""
    browser.get(index.as_uri())
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    yield browser
    assert browser.get_log("browser") == []


def wait(condition, seconds=10):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)
    return result


def visible_names(page):
    rows = "section:not([hidden]) tbody tr:not([hidden]) th"
    return page.execute_script(f"return [...document.querySelectorAll('{rows}')].map(x => x.textContent)")


def click(page, selector):
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(page, selector, value):
    page.execute_script(
        "const input = document.querySelector(arguments[0]); input.value = arguments[1];"
        "input.dispatchEvent(new Event('input')); input.dispatchEvent(new Event('change'))",
        selector,
        value,
    )


def test_a_click_on_a_header_sorts_by_number_with_missing_cells_last(page):
    column = page.execute_script(
        "return [...document.querySelectorAll('thead [data-column]')].find(x => x.textContent === 'DTD').dataset.column"
    )
    for _ in range(2):
        click(page, f"[data-column='{column}']")
        texts = page.execute_script(
            f"return [...document.querySelectorAll('tbody tr')].map(row => row.children[{column}].dataset.value ?? '')"
        )
        numbers = [float(text) for text in texts if text]
        assert texts[: len(numbers)] == [text for text in texts if text]
        assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
        direction = page.execute_script("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')")
        assert direction == ("ascending" if numbers == sorted(numbers) else "descending")


def test_rows_are_filtered_by_name_and_published_rows_can_be_hidden(page):
    all_names = visible_names(page)
    assert any("OSU" in name for name in all_names)
    choose(page, "#filter", "moppa")
    assert [name.split()[0] for name in visible_names(page)] == ["moppa"]
    choose(page, "#filter", "")
    click(page, "#show-published")
    assert len(visible_names(page)) == 4
    assert page.execute_script("return document.querySelector('#row-count').textContent").startswith("4 of")
    click(page, "#show-published")
    assert visible_names(page) == all_names


def test_a_cell_opens_its_records_with_curve_and_confusion_matrix_and_escape_closes_it(page):
    from selenium.webdriver.common.keys import Keys

    button = page.find_element("css selector", "[data-cell$=' svhn']")
    button.send_keys(Keys.ENTER)
    wait(lambda: page.execute_script("return document.querySelector('#cell').open"))
    text = page.execute_script("return document.querySelector('#cell').textContent")
    for fact in ("linear, SVHN", "official, lineage tfds", "15619 of 26032", "0123456789", "95% interval"):
        assert fact in text, fact
    wait(lambda: page.find_elements("css selector", "#cell .curve svg"))
    assert len(page.find_elements("css selector", "#cell .confusion td")) == 100
    config = json.loads(page.execute_script("return document.querySelector('#cell pre').textContent"))
    assert config["method"]["name"] == "linear"
    assert config["task"]["name"] == "svhn"
    page.find_element("css selector", "#cell form button").send_keys(Keys.ESCAPE)
    wait(lambda: not page.execute_script("return document.querySelector('#cell').open"))


def test_a_confusion_matrix_of_more_than_twenty_classes_is_not_shown(page):
    click(page, "[data-cell$=' dtd']")
    wait(lambda: page.execute_script("return document.querySelector('#cell').open"))
    assert not page.find_elements("css selector", "#cell .confusion")
    click(page, "#cell form button")


def test_text_from_records_stays_text(page):
    assert page.title == "MoPPA: results"
    assert any("<script>" in name for name in visible_names(page))
    click(page, "tr[data-name*='script'] [data-cell]")
    wait(lambda: page.execute_script("return document.querySelector('#cell').open"))
    assert "<script>" in page.execute_script("return document.querySelector('#cell-title').textContent")
    assert page.title == "MoPPA: results"
    click(page, "#cell form button")


def test_arrow_keys_move_between_cells(page):
    from selenium.webdriver.common.keys import Keys

    first = page.find_element("css selector", "[data-cell$=' svhn']")
    first.send_keys(Keys.ARROW_DOWN)
    focused = page.execute_script("return document.activeElement.dataset.cell")
    assert focused.endswith(" svhn")
    assert focused != first.get_attribute("data-cell")


@pytest.mark.slow  # loads the page in Chromium again
def test_the_chosen_theme_is_kept(page):
    def background():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    choose(page, "#theme", "dark")
    dark = background()
    page.refresh()
    wait(lambda: page.execute_script("return document.documentElement.dataset.ready"))
    assert background() == dark
    choose(page, "#theme", "light")
    assert background() != dark
    choose(page, "#theme", "auto")


def test_charts_are_drawn_when_they_are_scrolled_to(page):
    for figure in page.find_elements("css selector", "figure"):
        page.execute_script("arguments[0].scrollIntoView()", figure)
        wait(lambda figure=figure: figure.find_elements("css selector", "svg"))
    headings = page.execute_script("return [...document.querySelectorAll('figcaption')].map(x => x.textContent)")
    charts = {"Accuracy against parameters", "Learning curves", "Time and memory", "Average ranks, published rows"}
    assert charts <= set(headings)


def test_the_heat_map_compares_with_the_chosen_baseline_and_the_legend_selects_rows(page):
    def draw(heading):
        figure = next(f for f in page.find_elements("css selector", "figure") if f.text.startswith(heading))
        page.execute_script("arguments[0].scrollIntoView()", figure)
        wait(lambda: figure.find_elements("css selector", "svg"))
        return figure

    figure = draw("Accuracy on each task")
    assert "baseline:linear" in svg_text(figure)
    select = figure.find_element("css selector", "select")
    page.execute_script("arguments[0].value = 'lora'; arguments[0].dispatchEvent(new Event('change'))", select)
    wait(lambda: "baseline:lora" in svg_text(figure))
    figure = draw("Learning curves")
    lines = ".mark-line path[opacity='0.1']"
    assert not figure.find_elements("css selector", lines)
    figure.find_element("css selector", ".role-legend-label text").click()
    wait(lambda: figure.find_elements("css selector", lines))


def svg_text(figure):
    return "\n".join(element.text for element in figure.find_elements("css selector", "svg text"))


@pytest.mark.slow  # draws the charts four times
def test_the_filter_drives_the_charts_and_the_address_keeps_it(page):
    def points():
        figure = page.find_element("css selector", "figure")
        page.execute_script("arguments[0].scrollIntoView()", figure)
        return len(
            wait(lambda: figure.find_elements("css selector", ".mark-symbol path[aria-roledescription='point']"))
        )

    assert points() == 4
    choose(page, "#filter", "lora")
    wait(lambda: points() == 2)
    page.refresh()
    wait(lambda: page.execute_script("return document.documentElement.dataset.ready"))
    assert {name.split()[0] for name in visible_names(page)} >= {"lora"}
    assert page.execute_script("return document.querySelector('#filter').value") == "lora"
    choose(page, "#filter", "")


@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.slow)])
def test_numbers_and_charts_are_visible_at_the_width_of_a_phone_and_of_a_desk(page, width):
    from selenium.webdriver.common.by import By

    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    try:
        name = page.find_element(By.CSS_SELECTOR, "tbody tr th").rect
        assert name["x"] + name["width"] < 0.5 * width
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        figure = page.find_element(By.CSS_SELECTOR, "figure")
        page.execute_script("arguments[0].scrollIntoView()", figure)
        svg = wait(lambda: figure.find_elements(By.CSS_SELECTOR, "svg"))[0]
        assert svg.rect["width"] <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow  # makes another page
def test_columns_without_a_number_are_named_below_the_table(browser, tmp_path):
    for method in ("lora", "linear"):
        write_record_file(tmp_path, "backbone=dinov2_vits14", f"method={method}", "task=eurosat")
    tables, _ = read_tables(tmp_path, CONFIGS)
    browser.get(write_page(tables, tmp_path / "report")[0].as_uri())
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    titles = [cell.text for cell in browser.find_elements("css selector", "thead tr:last-child th")]
    assert len(titles) == 5
    assert "Not run: CIFAR-100, Caltech101" in browser.find_element("css selector", ".notes").text


def test_the_page_requests_nothing_from_a_network(index):
    text = re.sub(r"<a [^>]+>", "", index.read_text(encoding="utf-8"))  # links are followed by people only
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.slow  # makes two pages
def test_the_same_records_give_the_same_page(index, tmp_path):
    assert make_page(tmp_path)[0].read_bytes() == index.read_bytes()


@pytest.mark.slow  # loads the page in Chromium again
def test_any_two_quantities_links_class_names_and_the_order_are_on_the_page(page):
    page.execute_script("document.querySelector('figure[data-scatter]').scrollIntoView()")
    wait(lambda: page.find_elements("css selector", "figure[data-scatter] svg"))
    choose(page, "figure[data-scatter] [data-axis='x']", "training time (s)")
    assert "No row has both." in page.find_element("css selector", "figure[data-scatter]").text
    choose(page, "figure[data-scatter] [data-axis='y']", "SVHN")
    wait(lambda: "training time (s)" in svg_text(page.find_element("css selector", "figure[data-scatter]")))
    click(page, "thead [data-column='1']")
    assert "x=training+time" in page.execute_script("return location.hash")
    names = visible_names(page)
    page.refresh()
    wait(lambda: page.execute_script("return document.documentElement.dataset.ready"))
    assert visible_names(page) == names
    links = page.execute_script(
        "return [...document.querySelectorAll('tr[data-name=lora] a')].map(x => [x.text, x.href])"
    )
    assert links[0] == ["paper", "https://arxiv.org/abs/2106.09685"]
    assert links[1][1].endswith("/baselines/lora.py")
