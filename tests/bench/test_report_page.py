"""The page of a report in a real browser, Debian's chromium, which KOALA_BROWSER=required asks for."""

import os
import shutil

import pytest
from bench_rows import store
from report_rows import HOSTILE, many, published

from bench.report.site import build
from koala.harness import records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("KOALA_BROWSER") != "required", reason="there is no chromium here"
    ),
]
ROW, NAMES = "#table tbody tr", "#table tbody button"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "KOALA_BROWSER=required, and there is no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a few rows whose texts attack it."""
    results = published(tmp_path_factory.mktemp("results"))
    rows = next(results.glob("*/rows.jsonl"))
    rows.write_text(rows.read_text().replace("NVIDIA <b>H200</b>|", HOSTILE.replace('"', '\\"')))
    build(records.read([rows]), records.Records(), results, None)
    return results / "index.html"


@pytest.fixture
def opened(browser, report):
    """What opens the page; no error may be on its console, and nothing be asked of a network."""
    complaints, pages = [], []

    def open_page(anchor="", address=report, **context):
        page = browser.new_page(**({"viewport": {"width": 1300, "height": 900}} | context))
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.append(request.url) if "://" in request.url.replace("file://", "", 1) else None,
        )
        page.goto(f"file://{address}{anchor}")
        page.wait_for_selector("#plot[data-drawn]")
        return page

    yield open_page
    assert complaints == []
    assert not any(page.evaluate("window.hacked") for page in pages)
    for page in pages:
        page.close()


def names(page):
    return page.locator(NAMES).all_text_contents()


def tick(page, key, choice):
    page.click(f"#filters details[data-key={key}] summary")
    page.get_by_label(choice, exact=True).check()
    page.keyboard.press("Escape")


def test_filters_choose_rows_and_the_address_keeps_them(opened):
    page = opened()
    assert len(names(page)) == 7 and page.text_content("#shown") == "7 of 7 rows"
    tick(page, "model", "koala-700m")
    assert set(names(page)) == {"koala-700m"} and page.text_content("#shown") == "3 of 7 rows"
    tick(page, "resolution", "1024")
    tick(page, "target", "pipeline")
    assert page.text_content("#shown") == "1 of 7 rows"
    again = opened("#" + page.url.partition("#")[2])
    assert again.text_content("#shown") == "1 of 7 rows"
    again.click("#clear")
    assert again.text_content("#shown") == "7 of 7 rows"


def test_a_cap_and_an_outcome_are_filters_and_search_takes_words(opened):
    page = opened()
    tick(page, "vram_bytes", "8 GiB")
    assert names(page) == ["sdxl"] and "out of memory" in page.locator(ROW).inner_text()
    page.click("#clear")
    tick(page, "status", "out of memory")
    assert len(names(page)) == 1
    page.click("#clear")
    page.fill("#search", "KOALA unet")
    assert names(page) == ["koala-700m"]
    page.fill("#search", "nothing like it")
    assert names(page) == [] and "None of the rows" in page.text_content("#plot-note")


def test_a_click_on_a_head_sorts_and_another_one_turns_round_and_what_is_missing_comes_last(opened):
    page = opened()

    def latencies():
        head = page.locator("#table th").all_text_contents().index("latency [s]")
        return [
            cells.nth(head).inner_text().split(" ")[0]
            for cells in (row.locator("td") for row in page.locator(ROW).all())
        ]

    head = page.locator("#table th[data-key=latency_s] button")
    head.click()
    found = latencies()
    assert found[-1] == "out" and found[:-1] == sorted(found[:-1], key=float)
    assert page.get_attribute("#table th[data-key=latency_s]", "aria-sort") == "ascending"
    head.click()
    found = latencies()
    assert found[-1] == "out" and found[:-1] == sorted(found[:-1], key=float, reverse=True)


def test_a_row_opens_with_its_environment_and_samples_by_keyboard_alone(opened):
    page = opened("#model=koala-700m&target=unet")
    page.locator(NAMES).first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#row")
    assert dialog.is_visible() and dialog.locator("h3").inner_text().startswith("koala-700m on </script>")
    text = dialog.inner_text()
    assert "6 samples" in text and "0.04000" in text.replace("0.040,", "0.04000") and "580" in text
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.textContent") == "koala-700m", "focus goes back to the row"


@pytest.mark.parametrize("plot", ["latency", "memory", "parts", "roofline"])
def test_every_plot_is_drawn_of_the_rows_shown(opened, plot):
    page = opened()
    page.click(f"#tab-{plot}")
    page.wait_for_selector(f"#plot[data-drawn={plot}] .main-svg .trace")
    assert page.get_attribute(f"#tab-{plot}", "aria-selected") == "true"
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(f"#tab-{plot}", "aria-selected") == "false", "arrows choose the next one"


def test_it_is_dark_where_that_is_wished_and_the_button_turns_it(opened):
    page = opened(color_scheme="dark")

    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = background()
    page.click("#theme")
    assert (dark, background()) == ("rgb(22, 25, 28)", "rgb(255, 255, 255)")


def test_a_phone_scrolls_the_table_and_not_the_page(opened):
    page = opened(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(
        "document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth"
    )


def test_many_rows_come_in_pages_and_paper_has_all(opened, tmp_path):
    file = store(tmp_path / "a.jsonl", *many(450))
    build(records.read([file]), records.Records(), tmp_path / "out", None)
    page = opened(address=tmp_path / "out/index.html")
    assert len(names(page)) == 200 and "page 1 of 3" in page.text_content("#pages")
    page.get_by_role("button", name="further").click()
    page.get_by_role("button", name="further").click()
    assert len(names(page)) == 50
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(names(page)) == 450
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert len(names(page)) == 200
