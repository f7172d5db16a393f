"""The static site in a real browser, opened as a file: it needs no server, and no text in it does
harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from loadsheet.site.write import write_site
from tests.page.chromium import PROGRAM, READY, Chromium, broken_rules, go
from tests.page.sample import HOSTILE, site

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

VIEWS = {
    "overview": "#/",
    "pipeline": "#/p/shop",
    "table": "#/p/shop/table/orders",
    "mart": "#/p/shop/transform/m",
    "hostile": f"#/p/shop/table/{quote(HOSTILE, safe='')}",
    "run": "#/p/shop/run/x",
    "nothing": "#/p/shop/table/nothing",
}
NAMES = "[...document.querySelectorAll('table.overview tbody th a')].map(one => one.textContent)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("a site"), site())


@pytest.fixture
def page(browser: Chromium, file: Path) -> Iterator[Chromium]:
    """The overview, opened from the disk."""
    browser.look(1300)
    browser.open(file.as_uri())
    browser.wait(READY)
    browser.problems()
    yield browser


def search(page: Chromium, words: str) -> None:
    page.js(
        f"{{ const field = document.querySelector('#filter'); field.value = {json.dumps(words)};"
        " field.dispatchEvent(new Event('input')); }"
    )


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_opens_from_a_file_and_no_text_becomes_markup(page: Chromium, view: str) -> None:
    go(page, VIEWS[view])
    if view not in ("run", "nothing"):
        assert "<img src=x" in page.text()
    assert page.js("document.querySelectorAll('main img, main script, main [onerror]').length") == 0
    assert page.js("window.harmed ?? 0") == 0
    assert page.problems() == []


def test_the_policy_stops_what_the_page_might_let_through(page: Chromium) -> None:
    page.js(f"document.querySelector('main').innerHTML = {json.dumps(HOSTILE)}; 0")
    page.wait("document.querySelector('main img')")
    assert page.js("new Promise(done => setTimeout(() => done(window.harmed ?? 0), 50))") == 0
    assert any("Content Security Policy" in problem for problem in page.problems())


def test_without_the_policy_the_same_text_does_harm(
    browser: Chromium, file: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.html"
    bare.write_text(file.read_text().replace("Content-Security-Policy", "X-Nothing", 1))
    browser.open(bare.as_uri())
    browser.wait(READY)
    browser.js(f"document.querySelector('main').innerHTML = {json.dumps(HOSTILE)}; 0")
    browser.wait("window.harmed === 1")
    browser.problems()


def test_names_columns_and_comments_are_searched(page: Chromium) -> None:
    search(page, "orders")
    assert page.js(NAMES) == ["orders"]
    search(page, "LEFT_OUT table_0003")
    assert page.js(NAMES) == ["table_0003"]
    assert "column: left_out" in page.text()
    search(page, "the only orders")
    assert page.js(NAMES) == ["orders"]
    assert "column: id" in page.text()
    search(page, "nowhere")
    assert page.js(NAMES) == []
    assert page.js("document.querySelector('#live').textContent") == "none of 0 shown"


def test_a_table_shows_its_source_its_keys_its_checks_and_when_it_was_loaded(
    page: Chromium,
) -> None:
    go(page, VIEWS["table"])
    text = page.text()
    for shown in (
        "left_out\ttext\tnot loaded",
        "integer, not null, primary key",
        "2026-11-04 08:00",
    ):
        assert shown in text
    assert "equals its source\tloadsheet verify\tequal at 2026-11-30 08:00" in text
    assert "as of 2026-11-30 08:00:00 UTC" in text
    links = "[...document.querySelectorAll('main a')].map(one => one.getAttribute('href'))"
    assert not any("/run/" in link for link in page.js(links))
    shown_buttons = (
        "[...document.querySelectorAll('.top button')].filter(one => !one.hidden).length"
    )
    assert page.js(shown_buttons) == 1


def test_a_pipeline_is_drawn_whole_and_its_boxes_lead_to_its_tables(page: Chromium) -> None:
    go(page, VIEWS["pipeline"])
    boxes = "[...document.querySelectorAll('svg.lineage .box .name')].map(one => one.textContent)"
    drawn = page.js(boxes)
    assert {"public.orders", "staging.orders", "mart.m"} <= set(drawn)
    page.js(
        "document.querySelector('svg.lineage a.mart').dispatchEvent(new MouseEvent('click',"
        " {bubbles: true, cancelable: true}))"
    )
    page.wait("document.querySelector('h1')?.textContent.startsWith('m ')")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_window(page: Chromium, view: str, width: int) -> None:
    page.look(width)
    go(page, VIEWS[view])
    assert page.js("document.documentElement.scrollWidth") <= width


def test_it_works_by_keys_alone(page: Chromium) -> None:
    page.js("document.activeElement.blur()")
    page.press("Tab")
    page.press("Enter")
    assert page.js("document.activeElement.id") == "main"
    seen = set()
    for _ in range(14):
        page.press("Tab")
        seen.add(page.js("document.activeElement.id || document.activeElement.textContent"))
        assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert {"filter", "shop"} <= seen


def test_a_print_has_all_rows_and_no_buttons(page: Chromium) -> None:
    go(page, VIEWS["table"])
    page.call("Emulation.setEmulatedMedia", media="print")
    cut_off = "one => one.scrollHeight > one.clientHeight + 1"
    assert page.js(f"[...document.querySelectorAll('.scroll')].filter({cut_off}).length") == 0
    assert page.js("document.querySelector('#theme').offsetHeight") == 0
    page.call("Emulation.setEmulatedMedia", media="")


def test_no_rule_of_accessibility_is_broken(page: Chromium, axe: str) -> None:
    assert broken_rules(page, axe, VIEWS) == {}


def test_500_tables_are_drawn_by_a_hundred_and_all_are_searched(
    browser: Chromium, tmp_path: Path
) -> None:
    browser.look(1300)
    browser.open(write_site(tmp_path / "site", site(500)).as_uri())
    browser.wait(READY)
    assert len(browser.js(NAMES)) == 100
    search(browser, "table_0498")
    assert browser.js(NAMES) == ["table_0498"]
    go(browser, VIEWS["pipeline"])
    assert "too many to draw" in browser.text()
