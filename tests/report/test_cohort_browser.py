"""The page of a cohort in a real browser: silent, asking for nothing, nothing wider than the screen, figures drawn."""

import os
import shutil
from collections.abc import Iterator

import pytest

import expressor as ex
from expressor.datasets import simulate_bulk
from expressor.report import write_cohort_run

pytestmark = pytest.mark.browser
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium and playwright must be there in CI")
        pytest.skip("Chromium or playwright is not installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohorts")
    train, new = simulate_bulk(n_patients=90), simulate_bulk(n_patients=60, seed=1)
    restored = write_cohort_run(ex.ConditionalGaussian.preset("tiny").fit(train), new[:, :30].copy(), root / "restored")
    at_risk = write_cohort_run(ex.PenalisedCox.preset("tiny").fit(train), new, root / "risk")
    return {"restored": restored / "report.html", "risk": at_risk / "report.html"}


@pytest.mark.parametrize(("page", "n_figures"), [("restored", 3), ("risk", 2)])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_page(browser, pages, page, n_figures, width, dark):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
    )
    said: list[str] = []
    asked: list[str] = []
    try:
        shown = context.new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(pages[page].as_uri())
        assert said == []
        assert [one for one in asked if not one.startswith(("file:", "data:"))] == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [one.bounding_box() for one in shown.query_selector_all("figure svg")]
        assert len(boxes) == n_figures
        assert all(box["width"] > 150 and box["height"] > 100 for box in boxes)
        ids = shown.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids))
    finally:
        context.close()
