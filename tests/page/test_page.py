"""The page in a real browser: what a reader sees, with which keys, and that no text does harm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from loadsheet.page.server import PageServer
from tests.page.chromium import AXE, PROGRAM, READY, Chromium, broken_rules, go
from tests.page.sample import HOSTILE, RUN, STATES, Sample

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

TARGET = "#/p/shop/table/orders"
VIEWS = {
    "overview": "#/",
    "pipeline": "#/p/shop",
    "table": TARGET,
    "run": f"#/p/shop/run/{quote(RUN, safe='')}",
    "nothing": "#/nothing/here",
}
ROWS = "document.querySelectorAll('table.overview tbody tr').length"


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(getattr(request, "param", 12))


@pytest.fixture
def page(browser: Chromium, sample: Sample) -> Iterator[Chromium]:
    """The overview, opened by the address that the command prints."""
    bugs: list[BaseException] = []
    with PageServer(0, sample.answer, bugs.append) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        browser.look(1300)
        browser.open(server.url)
        browser.wait(READY)
        browser.problems()
        yield browser
        server.shutdown()
        thread.join()
    assert bugs == []


def names(page: Chromium) -> list[str]:
    """The names in the overview, in their order."""
    cells = "document.querySelectorAll('table.overview tbody th a')"
    return page.js(f"[...{cells}].map(one => one.textContent)")  # type: ignore[no-any-return]


@pytest.mark.parametrize("view", VIEWS)
def test_no_text_from_outside_becomes_markup(page: Chromium, view: str) -> None:
    go(page, VIEWS[view])
    if view != "nothing":
        assert "<img src=x" in page.text()
    assert page.js("document.querySelectorAll('main img, main script, main [onerror]').length") == 0
    assert page.js("window.harmed ?? 0") == 0
    assert page.problems() == []


def test_the_same_text_as_markup_would_do_harm(browser: Chromium) -> None:
    browser.open("data:text/html,<p>a page without a policy</p>")
    browser.js(f"document.body.innerHTML = {json.dumps(HOSTILE)}; 0")
    browser.wait("window.harmed === 1")


def test_the_policy_stops_what_the_page_might_let_through(page: Chromium) -> None:
    page.js(f"document.querySelector('main').innerHTML = {json.dumps(HOSTILE)}; 0")
    page.wait("document.querySelector('main img')")
    assert page.js("new Promise(done => setTimeout(() => done(window.harmed ?? 0), 50))") == 0
    assert any("Content Security Policy" in problem for problem in page.problems())


def test_text_that_turns_its_direction_is_shown_as_it_is_stored(page: Chromium) -> None:
    go(page, TARGET)
    assert "a\\u202eb" in page.text()


def test_the_overview_shows_the_worst_first_and_filters(page: Chromium) -> None:
    assert names(page)[0] in (HOSTILE, "table_0010")
    go(page, "#/?q=table_000&sort=name&down=1")
    assert names(page) == [f"table_{number:04}" for number in range(9, -1, -1)]
    page.js(
        "const field = document.querySelector('#filter'); field.value = 'TABLE_0003 shop';"
        " field.dispatchEvent(new Event('input')); 0"
    )
    assert names(page) == ["table_0003"]
    assert page.js("document.querySelector('#live').textContent") == "1 to 1 of 1 shown"
    assert "q=TABLE_0003" in page.js("location.hash")


def test_a_table_that_is_not_verified_in_time_says_so(page: Chromium) -> None:
    cells = "document.querySelectorAll('table.overview tbody td span.bad')"
    found = page.js(f"[...{cells}].map(one => one.textContent)")
    assert [text for text in found if "equal" in text] == ["equal 1h 6m ago, loaded since, late"]


def test_a_head_sorts_by_its_column_and_says_so(page: Chromium) -> None:
    heads = "[...document.querySelectorAll('table.overview thead th')]"
    rows = f"{heads}.find(one => one.textContent === 'Rows')"
    page.js(f"{rows}.querySelector('button').click()")
    assert page.js(f"{rows}.getAttribute('aria-sort')") == "ascending"
    assert names(page)[0] == "table_0000"
    page.js(f"{rows}.querySelector('button').click()")
    assert page.js(f"{rows}.getAttribute('aria-sort')") == "descending"
    assert names(page)[-1] == "table_0000"
    assert page.js(f"{heads}.filter(one => one.hasAttribute('aria-sort')).length") == 1


@pytest.mark.parametrize("sample", [5000], indirect=True)
def test_of_5000_tables_a_hundred_are_drawn_at_once_and_all_can_be_reached(page: Chromium) -> None:
    assert page.js(ROWS) == 100
    assert "1 to 100 of 5,000" in page.text()
    pressed = "[...document.querySelectorAll('.pager button')].find(one => one.textContent"
    page.js(f"{pressed} === 'Next').click()")
    assert "101 to 200 of 5,000" in page.text()
    assert page.js("document.activeElement.tagName") == "TABLE"
    go(page, "#/?q=table_4998")
    assert names(page) == ["table_4998"]
    go(page, "#/?page=49&sort=name")
    assert page.js(ROWS) == 100
    assert names(page)[-1] == "table_4998"


@pytest.mark.parametrize("sample", [5000], indirect=True)
def test_a_state_is_chosen_by_its_button(page: Chromium, sample: Sample) -> None:
    held = [one for one in sample.overview["pipelines"][0]["targets"] if one["state"] == STATES[2]]
    page.js("document.querySelector('[data-state=held_back]').click()")
    assert len(names(page)) == min(len(held), 100)
    assert page.js("document.querySelector('[data-state=held_back]').ariaPressed") == "true"
    assert "held back by pid 4711 (till), open since 15m ago" in page.text()


def seconds(page: Chromium) -> float:
    """The CPU time that the page has taken so far: its scripts, styles, layout and painting."""
    metrics = page.call("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


@pytest.mark.parametrize("sample", [5000], indirect=True)
def test_5000_tables_are_painted_in_a_second_of_cpu_time(page: Chromium) -> None:
    """Thread time, which other processes do not lengthen as they do the clock's."""
    page.call("Performance.enable", timeDomain="threadTicks")
    page.js("location.reload()")
    page.wait(f"{READY} && {ROWS} === 100")
    page.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert 0 < seconds(page) < 1


@pytest.mark.parametrize("sample", [5000], indirect=True)
def test_500_pipelines_are_shown_and_their_common_trouble_once(
    page: Chromium, sample: Sample
) -> None:
    sample.divide(500)
    page.js("document.querySelector('#refresh').click()")
    page.wait("document.body.innerText.includes('All 500 pipelines')")
    assert page.js(ROWS) == 100
    troubles = "[...document.querySelectorAll('.troubles li')].map(one => one.textContent)"
    [away] = [text for text in page.js(troubles) if "does not answer" in text]
    assert away.startswith("p000, p001, p002 and 497 more pipelines: the warehouse could not")
    assert len(page.js(troubles)) == 3  # of the source, a note, and this
    assert page.js("document.querySelector('[aria-labelledby=s-runs]')") is None
    go(page, "#/p/p499")
    assert page.js(ROWS) == 10


def test_a_pipeline_lists_its_last_runs(page: Chromium) -> None:
    go(page, VIEWS["pipeline"])
    runs = "[...document.querySelectorAll('[aria-label=Runs] tbody th a')]"
    assert page.js(f"{runs}.map(one => one.textContent)") == [RUN, HOSTILE]
    page.js(f"{runs}[0].click()")
    page.wait(f"document.querySelector('h1')?.textContent === {json.dumps(RUN)}")


def test_links_lead_from_the_overview_to_a_target_and_to_its_run(page: Chromium) -> None:
    title = "document.querySelector('h1')?.textContent"
    go(page, "#/?q=table_0003")
    page.js("document.querySelector('table.overview tbody th a').click()")
    page.wait(f"{title}?.startsWith('table_0003')")
    link = "[...document.querySelectorAll('main td a')].find(one => one.hash.includes('/run/'))"
    page.js(f"{link}.click()")
    page.wait(f"{title} === {json.dumps(RUN)}")
    assert page.js("document.title").startswith(RUN)


def test_a_column_shows_what_it_is_made_of_and_what_is_made_of_it(page: Chromium) -> None:
    go(page, TARGET)
    boxes = "[...document.querySelectorAll('svg.lineage .box')]"
    assert page.js(f"{boxes}.map(one => one.querySelector('.name').textContent)") == [
        "public.orders",
        "staging.orders",
        "mart.m",
    ]
    assert page.js("document.querySelectorAll('svg.lineage .column').length") == 0
    page.js("document.querySelector('button[data-column=id]').click()")
    assert page.js("document.querySelectorAll('svg.lineage .column').length") == 3
    assert page.js("document.querySelector('button[data-column=id]').ariaPressed") == "true"
    mart = f"{boxes}.find(one => one.classList.contains('mart')).getAttribute('href')"
    assert page.js(mart) == "#/p/shop/transform/m"


def test_the_page_works_by_keys_alone(page: Chromium) -> None:
    page.js("document.activeElement.blur()")
    page.press("Tab")
    assert page.js("document.activeElement.id") == "skip"
    page.press("Enter")
    assert page.js("document.activeElement.id") == "main"
    rings = {}
    for _ in range(30):
        page.press("Tab")
        name = page.js("document.activeElement.textContent || document.activeElement.id")
        rings[name] = page.js("getComputedStyle(document.activeElement).outlineStyle")
    assert {"filter", "Rows", "table_0000"} <= set(rings)
    assert set(rings.values()) == {"solid"}


def test_a_refresh_keeps_the_focus_and_the_filter(page: Chromium, sample: Sample) -> None:
    go(page, "#/?q=table_000")
    page.js("document.querySelector('[data-key=\"shop staging.table_0004\"]').focus()")
    sample.overview["pipelines"][0]["targets"][4]["rows"] = 123_456
    page.js("document.querySelector('#refresh').click()")
    page.wait("document.body.innerText.includes('123,456')")
    assert page.js("document.activeElement.textContent") == "table_0004"
    assert page.js("document.querySelector('#filter').value") == "table_000"


def test_without_the_session_the_page_says_so(page: Chromium) -> None:
    page.js("document.cookie")  # it is not the page's to read
    page.call("Network.clearBrowserCookies")
    page.js("document.querySelector('#refresh').click()")
    page.wait("document.querySelector('main').innerText.includes('not logged in any more')")


def test_buttons_are_shown_where_the_reader_may_press_them(page: Chromium, sample: Sample) -> None:
    go(page, TARGET)
    assert page.js("document.querySelector('.actions')") is None
    sample.actions += ["verify", "backfill", "rebuild", "unknown"]
    page.js("location.reload()")
    page.wait(f"document.querySelector('.actions') && {READY}")
    shown = "[...document.querySelectorAll('main .actions button')].map(one => one.textContent)"
    assert page.js(shown) == ["Verify", "Backfill"]
    page.js("document.querySelector('main .actions button').click()")
    assert "Compare with the source: staging.orders?" in page.text()
    page.press("Escape")
    page.wait("!document.querySelector('dialog')")


def open_with_buttons(page: Chromium, sample: Sample, answer: str) -> None:
    """A table's page as in Airflow, whose API is the JavaScript function `answer`."""
    sample.actions += ["run", "backfill"]
    go(page, TARGET)
    page.js(
        "window.sent = []; const ask = window.fetch; window.fetch = (path, options) =>"
        f" path.includes('api/v2') ? (window.sent.push(options), ({answer})(options)) :"
        " ask(path, options); 0"
    )


def press_button(page: Chromium, text: str) -> None:
    """That of the question, if one is open."""
    buttons = "[...document.querySelectorAll('dialog button, main .actions button')]"
    page.js(f"{buttons}.reverse().find(one => one.textContent === '{text}').click()")


SAID = "document.querySelector('.said').textContent"


def test_a_button_that_is_pressed_twice_starts_one_run(page: Chromium, sample: Sample) -> None:
    open_with_buttons(page, sample, "() => new Promise(done => { window.answerIt = done; })")
    press_button(page, "Run")
    press_button(page, "Run")
    page.wait("window.sent.length === 1")
    press_button(page, "Run")
    press_button(page, "Backfill")
    assert page.js("[document.querySelector('dialog'), window.sent.length]") == [None, 1]
    page.js("document.querySelector('#refresh').click()")
    page.wait(READY)
    press_button(page, "Run")
    assert page.js("[document.querySelector('dialog'), window.sent.length]") == [None, 1]
    page.js('window.answerIt(new Response(\'{"dag_run_id": "manual__1"}\'))')
    # Whether the DAG is paused is not known; the run has begun all the same.
    page.wait("window.sent.length === 2")
    page.js("window.answerIt(new Response('', {status: 500}))")
    page.wait(f"{SAID} === 'Started: manual__1'")


def test_what_a_button_has_said_stays_when_the_page_is_drawn_again(
    page: Chromium, sample: Sample
) -> None:
    open_with_buttons(page, sample, "() => Promise.resolve(new Response('', {status: 401}))")
    press_button(page, "Run")
    press_button(page, "Run")
    page.wait(f"{SAID}.includes('not logged in any more: nothing was started')")
    page.js("document.querySelector('#refresh').click()")
    page.wait(READY)
    assert "nothing was started" in page.js(SAID)


def test_a_range_that_ends_before_it_begins_is_not_sent(page: Chromium, sample: Sample) -> None:
    open_with_buttons(page, sample, "() => Promise.resolve(new Response('{}'))")
    press_button(page, "Backfill")
    fill = (
        "for (const [id, value] of Object.entries({}))"
        " {{ document.getElementById(id).value = value;"
        " document.getElementById(id).dispatchEvent(new Event('input')); }} 0"
    )
    for wrong in (
        {"from": "2026-11-02T00:00"},
        {"from": "2026-11-02T00:00", "until": "2026-11-01T00:00"},
        {"from": "2026-11-02T00:00", "until": "2026-11-02T00:00"},
    ):
        page.js(fill.format(json.dumps(wrong)))
        press_button(page, "Backfill")
        assert page.js("[document.querySelectorAll('dialog').length, window.sent.length]") == [1, 0]
    page.js(fill.format(json.dumps({"until": "2026-11-03T00:00"})))
    press_button(page, "Backfill")
    page.wait("window.sent.length > 0")
    conf = json.loads(page.js("window.sent[0].body"))["conf"]
    assert conf == {
        "tables": ["orders"],
        "interval_start": "2026-11-02T00:00:00Z",
        "interval_end": "2026-11-03T00:00:00Z",
    }


@pytest.mark.parametrize("focused", ["[data-state=failed]", "thead button", "#targets"])
def test_a_refresh_leaves_the_focus_on_what_has_it(page: Chromium, focused: str) -> None:
    one = f"document.querySelector('{focused}')"
    page.js(f"window.before = {one}; window.before.focus()")
    page.js("document.querySelector('#refresh').click()")
    page.wait(f"{one} !== window.before && {READY}")
    assert page.js(f"document.activeElement === {one}")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_window(page: Chromium, view: str, width: int) -> None:
    page.look(width)
    go(page, VIEWS[view])
    assert page.js("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 937, 1181, 1300])
def test_no_head_of_a_column_is_squeezed(page: Chromium, width: int) -> None:
    """937 is what Airflow leaves to the page on a screen of 1300."""
    page.look(width)
    assert page.js("document.querySelector('table.overview thead').offsetHeight") < 80


def test_the_theme_is_the_systems_until_one_is_chosen(page: Chromium) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.js(back)
    page.look(1300, dark=True)
    dark = page.js(back)
    assert dark != light
    page.js("document.querySelector('#theme').click()")
    assert page.js("document.documentElement.dataset.theme") == "light"
    assert page.js(back) == light
    page.js("document.querySelector('#theme').click()")
    page.look(1300)
    assert page.js(back) == dark
    page.js("document.querySelector('#theme').click()")
    assert page.js(back) == light


def test_no_rule_of_accessibility_is_broken(page: Chromium, axe: str) -> None:
    assert broken_rules(page, axe, VIEWS) == {}


def test_the_rules_of_accessibility_find_a_mistake(page: Chromium, axe: str) -> None:
    page.js(axe)
    page.js("document.querySelector('main').append(document.createElement('button')); 0")
    assert any(one.startswith("button-name") for one in page.js(AXE))


def test_what_is_not_there_is_said_under_its_name(page: Chromium) -> None:
    go(page, "#/p/shop/table/nothing")
    assert "nothing\nthere is no table 'nothing'" in page.text().replace("\n\n", "\n")
