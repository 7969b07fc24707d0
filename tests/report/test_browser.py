"""The page in a real browser: it stays silent, asks for nothing, and shows what the run holds."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from expressor.report import read_run, write_report

pytestmark = pytest.mark.browser
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


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
def report_of(tmp_path_factory) -> Callable:
    """Return a function that writes a run's report once and returns its path."""
    written: dict = {}

    def report(folder):
        if folder not in written:
            written[folder] = write_report(folder, tmp_path_factory.mktemp("report") / "report.html", figures=False)
        return written[folder]

    return report


@pytest.fixture
def show(browser, report_of) -> Iterator[Callable]:
    """Return a function that writes a run's report, opens it, and returns the page; trouble of any kind fails the test."""
    trouble: list[str] = []
    contexts = []

    def open_run(folder, *, width: int = 1200, dark: bool = False):
        path = report_of(folder)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        context.set_default_timeout(90_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: check(request.url, path.as_uri()))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=20_000)
        page.wait_for_selector("#panels[data-gene]", timeout=20_000)
        return page

    def check(address: str, own: str) -> None:
        if address.split("#")[0] != own and not address.startswith(("data:", "blob:")):
            trouble.append(f"request: {address}")

    yield open_run
    for context in contexts:
        context.close()
    assert trouble == []


def pixels(page, kind: str) -> str:
    return page.evaluate(f"""document.querySelector('.panel[data-kind="{kind}"] canvas').toDataURL()""")


def choose(page, name: str) -> None:
    options = page.locator("#gene-list [role=option]")
    names = options.evaluate_all("all => all.map((one) => one.dataset.gene)")
    options.nth(names.index(name)).click()
    wait_for(page, name)


def wait_for(page, name: str) -> None:
    """Wait until the panels show a gene (asked from outside: the page's policy lets nobody evaluate text inside it)."""
    for _ in range(100):
        if page.locator("#panels").get_attribute("data-gene") == name:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{name!r} was not shown")


def spoken(page) -> dict[str, str]:
    """Read what the page says of the marked spot."""
    page.wait_for_selector("#tip:not([hidden])")
    return dict(
        page.evaluate(
            """[...document.querySelectorAll('#tip dt')].map((one) => [one.textContent, one.nextSibling.textContent])"""
        )
    )


def to_number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


@pytest.fixture(scope="module")
def folder(make_run):
    return make_run(grid=True)


KINDS = ("measured", "predicted", "width", "error")


def test_the_gene_chooser_changes_every_panel(show, folder):
    page = show(folder)
    first = page.locator("#gene-name").inner_text()
    before = {kind: pixels(page, kind) for kind in KINDS}
    choose(page, "GENE17")
    assert page.locator("#gene-name").inner_text() == "GENE17" != first
    for kind in KINDS:
        assert pixels(page, kind) != before[kind], kind
    choose(page, first)
    assert {kind: pixels(page, kind) for kind in KINDS} == before


def test_hovering_says_what_the_run_holds(show, folder):
    page, run = show(folder), read_run(folder)
    choose(page, "GENE5")
    page.locator("label", has_text="C3").click()
    rows = run.spots_of("C3")
    places = run.predictions.obsm["spatial"][rows]
    page.locator(".panel[data-kind=error]").scroll_into_view_if_needed()
    page.wait_for_timeout(300)  # scrolling puts the tip away
    box = page.locator(".panel[data-kind=error] canvas").bounding_box()
    left, top, right, bottom = page.evaluate("JSON.parse(document.getElementById('data').textContent).sections[1].box")
    for spot in (0, 20, len(rows) - 1):
        scale = min(box["width"] / (right - left), box["height"] / (bottom - top))
        x = box["x"] + box["width"] / 2 + (places[spot, 0] - (left + right) / 2) * scale
        y = box["y"] + box["height"] / 2 + (places[spot, 1] - (top + bottom) / 2) * scale
        page.mouse.move(x, y, steps=2)
        said = spoken(page)
        truth = {
            name: run.values(name, genes=["GENE5"])[rows[spot], 0]
            for name in ("measured", "predicted", "lower", "upper")
        }
        assert page.locator("#tip strong").inner_text() == run.predictions.obs_names[rows[spot]]
        assert to_number(said["measured"]) == pytest.approx(truth["measured"], abs=0.006)
        assert to_number(said["predicted"]) == pytest.approx(truth["predicted"], abs=0.006)
        assert to_number(said["error"]) == pytest.approx(truth["predicted"] - truth["measured"], abs=0.006)
        bounds = [to_number(one) for one in said["interval"].split(" to ")]
        assert bounds == pytest.approx([truth["lower"], truth["upper"]], abs=0.006)


def test_the_keyboard_is_enough(show, folder):
    page = show(folder)
    page.locator("#gene-search").focus()
    page.keyboard.type("gene2")
    listed = page.locator("#gene-list [role=option]").count()
    assert listed == 11  # GENE2, GENE20 ... GENE29
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#gene-list [aria-selected=true]").get_attribute("data-gene")
    wait_for(page, chosen)
    assert chosen.startswith("GENE2")
    assert page.locator("#gene-search").get_attribute("aria-activedescendant") == page.locator(
        "#gene-list [aria-selected=true]"
    ).get_attribute("id")
    page.keyboard.type("nothing")
    assert page.locator("#gene-none").inner_text() == "No gene of that name is here."

    page.locator("#panels").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#spot").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#spot").inner_text()
    assert first.startswith("Spot C2_")
    assert second.startswith("Spot C2_")
    assert first != second
    page.keyboard.press("ArrowLeft")
    assert page.locator("#spot").inner_text() == first
    before = pixels(page, "measured")
    page.keyboard.press("+")
    assert pixels(page, "measured") != before
    page.keyboard.press("0")
    assert pixels(page, "measured") == before
    page.keyboard.press("Escape")
    assert page.locator("#spot").inner_text().startswith("Point at a spot")


def test_arrow_keys_reach_every_spot_of_a_row(show, folder):
    page, run = show(folder), read_run(folder)
    places = run.predictions.obsm["spatial"][run.spots_of("C2")]
    page.locator("#panels").focus()
    page.keyboard.press("ArrowRight")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    seen = set()
    for _ in range(12):
        seen.add(page.locator("#spot").inner_text().split(":")[0])
        page.keyboard.press("ArrowRight")
    y = places[int(next(iter(seen)).split("_")[1]), 1]
    assert len(seen) == (places[:, 1] == y).sum()


def test_sections_zoom_and_opacity(show, folder):
    page = show(folder)
    before = {kind: pixels(page, kind) for kind in KINDS}
    page.locator("label", has_text="C4").click()
    assert page.locator("#panels").get_attribute("data-section") == "C4"
    assert all(pixels(page, kind) != before[kind] for kind in KINDS)
    page.locator("label", has_text="C2").click()
    assert pixels(page, "error") == before["error"]
    page.locator("#opacity").evaluate("one => { one.value = 0; one.dispatchEvent(new Event('input')); }")
    assert pixels(page, "measured") == pixels(page, "width"), "without spots only the tissue is left"
    page.locator("#opacity").evaluate("one => { one.value = 100; one.dispatchEvent(new Event('input')); }")
    page.locator("#zoom-in").click()
    assert pixels(page, "width") != before["width"]
    page.locator("#zoom-all").click()
    assert pixels(page, "width") == before["width"]


def test_own_scale_changes_the_prediction_alone_and_the_dense_map_what_it_has(show, folder):
    page = show(folder)
    before = {kind: pixels(page, kind) for kind in KINDS}
    ticks = page.locator(".panel[data-kind=predicted] .ticks").inner_text()
    assert ticks == page.locator(".panel[data-kind=measured] .ticks").inner_text()
    choose(page, "GENE39")
    before = {kind: pixels(page, kind) for kind in KINDS}
    page.locator("#own").check()
    assert {kind for kind in KINDS if pixels(page, kind) != before[kind]} == {"predicted"}
    page.locator("#own").uncheck()
    page.locator("#dense").check()
    assert {kind for kind in KINDS if pixels(page, kind) != before[kind]} == {"predicted", "width"}


def test_sorting_filtering_and_the_csv(show, make_run):
    folder = make_run(missing=True)
    page, run = show(folder), read_run(folder)
    names = lambda: page.eval_on_selector_all(  # noqa: E731
        "#gene-table tbody tr:not([hidden])", "rows => rows.map((row) => row.dataset.gene)"
    )
    assert names() == run.gene_table.index.tolist()
    heading = page.locator("#gene-table thead th", has_text="Correlation")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    table = run.gene_table
    falling = table.sort_values("pcc", ascending=False, kind="stable", na_position="last")["pcc"].tolist()
    assert np.allclose([table.loc[name, "pcc"] for name in names()], falling, equal_nan=True, atol=1e-5)
    assert np.isnan(table.loc[names()[-1], "pcc"])
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert np.isnan(table.loc[names()[-1], "pcc"]), "what is not known stays last"
    page.locator("#gene-table thead button", has_text="Gene").click()
    assert names()[:3] == ["GENE0", "GENE1", "GENE2"]
    page.locator("#table-trusted").check()
    assert set(names()) == {name for name in table.index if table.loc[name, "trusted"] is True}
    page.locator("#table-filter").fill("gene1")
    shown = names()
    assert shown
    assert all(name.startswith("GENE1") for name in shown)
    with page.expect_download() as download:
        page.locator("#table-csv").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["gene"] for row in rows] == shown
    for row in rows:
        assert float(row["pcc"]) == pytest.approx(table.loc[row["gene"], "pcc"], abs=1e-5)
        assert row["trusted"] == "true"


def test_a_row_of_the_table_shows_its_gene_on_the_tissue(show, folder):
    page = show(folder)
    page.locator("#gene-search").fill("GENE1")
    page.get_by_role("button", name="Show GENE23 on the tissue").click()
    wait_for(page, "GENE23")
    assert page.locator("#gene-list [aria-selected=true]").get_attribute("data-gene") == "GENE23"


def test_hostile_names_are_only_names(show, make_run, hostile):
    folder = make_run(names=[*hostile, "GENE1"], sections=hostile[1:2], side=6)
    page = show(folder)
    assert page.evaluate("window.hacked") is None
    for name in hostile:
        choose(page, name)
        assert page.locator("#gene-name").evaluate("one => one.textContent") == name
    with page.expect_download() as download:
        page.locator("#table-csv").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        assert {row["gene"] for row in csv.DictReader(file)} == {*hostile, "GENE1"}
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize(
    "absent",
    [
        {"measured": False},
        {"intervals": False, "pictures": False},
        {"missing": True},
        {"sections": tuple(f"S{i}" for i in range(12)), "side": 4},
        {"measured": False, "intervals": False, "pictures": False, "gene_table": False, "beside": False},
    ],
    ids=lambda absent: "+".join(absent),
)
def test_whatever_is_absent_the_rest_works(show, make_run, absent):
    page = show(make_run(**absent))
    before = pixels(page, "predicted")
    choose(page, "GENE30")
    assert pixels(page, "predicted") != before
    if "sections" in absent:
        page.locator("#section-select").select_option("S7")
        assert page.locator("#panels").get_attribute("data-section") == "S7"
    page.locator("#panels").focus()
    page.keyboard.press("ArrowRight")
    said = spoken(page)
    assert ("measured" in said) == absent.get("measured", True)
    assert ("interval" in said) == absent.get("intervals", True)


@pytest.mark.parametrize("width", [420, 800, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_and_follows_the_colour_scheme(show, folder, width, dark):
    page = show(folder, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for kind in KINDS:
        box = page.locator(f".panel[data-kind={kind}] canvas").bounding_box()
        assert box["width"] >= 170
        assert box["x"] + box["width"] <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(one) for one in paper.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (light < 60) == dark


def contrast(a: list[float], b: list[float]) -> float:
    """Contrast ratio of two sRGB colours as the WCAG define it."""

    def luminance(colour: list[float]) -> float:
        linear = [(c / 255) / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_can_be_read_and_controls_have_names(show, folder, dark):
    page = show(folder, dark=dark)
    inks = page.evaluate(
        """() => { const style = getComputedStyle(document.documentElement);
        return ['paper', 'ink', 'muted', 'accent', 'eosin'].map((name) => style.getPropertyValue('--' + name).trim()); }"""
    )
    paper, *words = [[int(ink[at : at + 2], 16) for at in (1, 3, 5)] for ink in inks]
    assert all(contrast(one, paper) >= 4.5 for one in words)
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, [tabindex="0"]')]
            .filter((one) => !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim()))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_printing_opens_what_is_folded(show, folder):
    page = show(folder)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    page.emulate_media(media="print")
    assert not page.locator("#gene-search").is_visible()
    assert page.locator("#gene-table").is_visible()
