"""The static site of `loadsheet docs` as a file: where it is written, and what no text in it can
do."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.connections.lookup import Connection
from loadsheet.errors import InputError
from loadsheet.page.documents import Document
from loadsheet.page.files import static_files
from loadsheet.site import write
from loadsheet.site.recorded import recorded
from loadsheet.site.script import one_script
from loadsheet.site.write import html, write_site

HOSTILE = [
    "</script><script>window.harmed=1</script>",
    "<!--<script>",
    "]]>",
    "\u2028\u202e",
    "\ud800",
    "&lt;/script&gt;",
    "${harmed}`",
    "\\u003c/script>",
]


class Scripts(HTMLParser):
    """The texts of the elements that a browser reads as scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self._is_within = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self.found.append((tag, dict(attrs), ""))
        self._is_within = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_within = False

    def handle_data(self, data: str) -> None:
        if self._is_within:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)


def documents(*texts: str) -> dict[str, Any]:
    return {"overview": {"at": None, "pipelines": []}, "texts": list(texts)}


def embedded(page: str) -> Any:
    """The documents, as the page's script reads them."""
    [text] = [text for _, found, text in Scripts(page).found if found.get("id") == "documents"]
    return json.loads(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_ends_its_element(text: str) -> None:
    page = html(documents(text))
    whole = text.encode("utf-8", "replace").decode() if text != "\ud800" else text
    assert embedded(page)["texts"] == [whole]
    kinds = [(tag, found.get("type")) for tag, found, _ in Scripts(page).found]
    assert kinds == [("style", None), ("script", "application/json"), ("script", None)]


def test_plain_json_would_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_as_json", json.dumps)
    found = Scripts(html(documents(HOSTILE[0]))).found
    assert "window.harmed=1" in [text for _, _, text in found]


def test_the_policy_names_the_script_and_the_style_by_their_hashes() -> None:
    page = html(documents())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag, found, text in Scripts(page).found:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert (f"{tag}-src 'sha256-{digest}'" in policy) == ("type" not in found)


def test_nothing_is_loaded() -> None:
    page = html(documents())
    assert re.findall(r"<(?:link|img|iframe|script)[^>]*(?:href|src)=\"(?!data:)", page) == []


def test_all_modules_of_the_page_become_one_script_in_which_none_is_left_out() -> None:
    [script] = [
        text
        for tag, found, text in Scripts(html(documents())).found
        if tag == "script" and not found
    ]
    names = {name[:-3] for name in static_files() if name.endswith(".js")}
    assert set(re.findall(r"^const (\w+)\$ = ", script, re.MULTILINE)) == names
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    assert "</script" not in script
    assert "<!--" not in script


def test_a_module_is_evaluated_after_what_it_imports_and_once() -> None:
    modules = {
        "a": 'import { b, c as other } from "./b.js";\n'
        'import * as all from "./c.js";\nstart(b, other, all);\n',
        "b": 'import { d } from "./c.js";\nexport const b = d;\nexport async function c() {}\n',
        "c": "export const d = 1;\nexport function* e() {}\n",
    }
    script = one_script(modules, "a")
    assert re.findall(r"const (\w)\$", script) == ["c", "b", "a"]
    assert "return { d, e };" in script
    assert "return { b, c };" in script
    assert "const all = c$;" in script
    assert "const { b, c: other } = b$;" in script


@pytest.mark.parametrize(
    "line",
    [
        'import x from "./b.js";',
        'import "./b.js";',
        "export default 1;",
        "export { x };",
        "export let x = 1;",
        "export class X {}",
    ],
)
def test_a_form_that_is_not_known_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="a form that is not known"):
        one_script({"a": f"{line}\n", "b": "export const x = 1;\n"}, "a")


def test_a_site_is_written_into_a_new_folder_and_over_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "site"
    assert embedded(write_site(folder, documents("one")).read_text())["texts"] == ["one"]
    (folder / "index.html.new").write_text("half of one: it was killed")
    file = write_site(folder, documents("two"))
    assert embedded(file.read_text())["texts"] == ["two"]
    assert list(folder.iterdir()) == [file]


def test_a_folder_with_anything_else_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt.*name an empty or a new folder"):
        write_site(tmp_path, documents())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_page_of_others_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>mine</title>")
    with pytest.raises(InputError, match=r"index\.html"):
        write_site(tmp_path, documents())
    assert (tmp_path / "index.html").read_text().endswith("mine</title>")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file")
    with pytest.raises(InputError, match=r"--out: .*site cannot be read: Not a directory"):
        write_site(tmp_path / "site", documents())
    with pytest.raises(InputError, match=r"--out: .*deeper"):
        write_site(tmp_path / "site" / "deeper", documents())


def test_a_link_in_the_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site(folder, documents())
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    (folder / "index.html.new").symlink_to(kept)
    write_site(folder, documents())
    assert kept.read_text() == "mine"


def test_a_pipe_in_place_of_the_page_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.html")
    with pytest.raises(InputError, match=r"has other files in it \(index.html\)"):
        write_site(tmp_path, documents())


def test_two_that_write_at_once_do_not_take_each_other_s_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins in the middle of the first. Without the lock it removes the first one's
    unfinished file."""
    second = Thread(target=write_site, args=(tmp_path, documents("second")))

    def begin_another(document: Document) -> str:
        monkeypatch.undo()
        second.start()
        second.join(0.3)
        return html(document)

    monkeypatch.setattr(write, "html", begin_another)
    file = write_site(tmp_path, documents("first"))
    second.join(30)
    assert embedded(file.read_text()) == documents("second")
    assert [one.name for one in tmp_path.iterdir()] == ["index.html"]


SPEC = """
version: 1
pipeline: {name}
source: {{conn_id: source}}
lake: {{conn_id: lake, bucket: lake}}
warehouse: {{conn_id: warehouse}}
tables:
  orders: {{incremental: updated_at}}
transforms:
  totals:
"""


def pipeline(folder: Path, name: str, text: str = "") -> Path:
    home = folder / name
    (home / "sql").mkdir(parents=True)
    (home / "sql" / "totals.sql").write_text("SELECT count(*) AS n FROM staging.orders\n")
    (home / "pipeline.yml").write_text(text or SPEC.format(name=name))
    return home / "pipeline.yml"


def test_servers_that_are_away_and_files_with_problems_are_named_and_hide_nothing(
    tmp_path: Path,
) -> None:
    def nowhere(conn_id: str) -> Connection:
        return Connection(conn_id=conn_id, host="127.0.0.1", port=1, password="s3cr3t-pw")

    files = [pipeline(tmp_path, "shop"), pipeline(tmp_path, "broken", "version: 1\ntabels: {}\n")]
    found = recorded(files, nowhere)
    broken, shop = found["overview"]["pipelines"]
    assert "tabels" in broken["error"]
    assert "'warehouse'" in shop["unknown"]
    assert "s3cr3t-pw" not in json.dumps(found)
    assert [target["name"] for target in shop["targets"]] == ["orders", "totals"]
    _, totals = shop["targets"]
    assert "'warehouse'" in totals["unknown"]
    assert len(totals["upstream"]["tables"]) == 3


def test_two_files_with_one_name_are_told_apart_by_an_error(tmp_path: Path) -> None:
    files = [pipeline(tmp_path / "a", "shop"), pipeline(tmp_path / "b", "shop")]
    pipelines = recorded(files, None)["overview"]["pipelines"]
    assert [one["targets"] for one in pipelines] == [[], []]
    assert all("other files have this name" in one["error"] for one in pipelines)


def test_a_pipeline_that_is_named_twice_is_on_the_site_once(tmp_path: Path) -> None:
    file = pipeline(tmp_path / "pipelines", "shop")
    arguments = ["--project", str(tmp_path), "docs", "--no-connect", "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, [*arguments, "shop", str(file), os.path.relpath(file)])
    assert result.exit_code == 0, result.stderr
    assert "(1 pipeline, 2 tables and marts)" in result.stdout


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    files = [pipeline(tmp_path, name) for name in ("b", "a", "c")]
    one, other = recorded(files, None), recorded(files[::-1], None)
    one["overview"]["at"] = other["overview"]["at"] = "now"
    assert html(one) == html(other)


FULL = """
version: 1
pipeline: shop
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
verify: "@weekly"
external: [crm.people]
tables:
  orders: {incremental: updated_at, primary_key: id, deletes: hard}
  country:
    schema_contract: {columns: freeze}
    max_shrink: 0.25
    fresh_within: {warn: 30m, fail: 2h}
  log_*:
transforms:
  totals: {fresh_within: {fail: 1d}}
"""


def of_file(folder: Path, tests: str = "") -> dict[str, Any]:
    """The entry of the pipeline above, by its file alone."""
    file = pipeline(folder, "shop", FULL)
    sql = "SELECT name FROM staging.orders JOIN crm.people USING (id)\n"
    (file.parent / "sql" / "totals.sql").write_text(sql)
    if tests:
        (file.parent / "tests").mkdir()
        (file.parent / "tests" / "totals.yml").write_text(tests)
    [entry] = recorded([file], None)["overview"]["pipelines"]
    return entry  # type: ignore[no-any-return]


def test_what_the_file_says_of_each_table_is_on_the_site(tmp_path: Path) -> None:
    entry = of_file(tmp_path)
    found = {one["name"]: one for one in entry["targets"]}
    orders, country = found["orders"], found["country"]
    keys = ("primary_key", "mode", "reads_by", "deletes")
    assert [orders[key] for key in keys] == [["id"], "merge", "updated_at", "hard"]
    assert [country[key] for key in keys] == [[], "replace", None, None]
    assert entry["notes"] == ["only the warehouse knows which tables these match: log_*"]
    read = [
        entry["lineage"]["tables"][place]["name"] for place in found["totals"]["upstream"]["tables"]
    ]
    assert sorted(read) == ["crm.people", "mart.totals", "public.orders", "staging.orders"]


def test_each_limit_in_the_file_is_a_check(tmp_path: Path) -> None:
    checks = {
        one["name"]: [check["text"] for check in one["checks"]]
        for one in of_file(tmp_path)["targets"]
    }
    assert checks == {
        "orders": ["a run deletes at most 10% of the rows", "equals its source (@weekly)"],
        "country": [
            "the source's columns stay as they are: a load with others fails",
            "a full load removes at most 25% of the rows",
            "fresh: warning from 30m on, late from 2h on",
            "equals its source (@weekly)",
        ],
        "totals": ["fresh: late from 1d on", "equals the rows of its SELECT (@weekly)"],
    }


def test_tests_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    entry = of_file(tmp_path, tests="tests:\n  one: {given: 5}\n")
    *_, totals = entry["targets"]
    assert "tests/totals.yml:2" in totals["tests_unknown"]
    assert len(totals["checks"]) == 2
