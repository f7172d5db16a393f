"""Text from outside in Slack and in Airflow's log: it neither notifies anybody, nor
looks like something else than it is, nor fills the channel."""

from __future__ import annotations

import json
import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest

from loadsheet.airflow import log_escaping, slack
from loadsheet.airflow.slack import Failure, failure_message, recovery_message

HOSTILE = {
    "a channel": "<!channel>",
    "a person": "<@U012345> @here",
    "a link": "<https://evil.example|Open the log>",
    "an address": "https://evil.example/login",
    "an entity": "&lt;!channel&gt;",
    "a block": "``` *all is well* ```",
    "formats": "*bold* ~struck~ `code`",
    "lines": "x\n2026-01-01T00:00:00Z INFO all 5 tables loaded\r\nx",
    "colours": "\x1b[2K\x1b[1A\x1b[32mloaded\x9b31m",
    "directions": "dedaol \u202e\u2066\u2028x",
    "a group": "::group::everything that follows",
    "the end of a group": "x ::endgroup:: ::group::y",
    "much": "<&>" * 40_000,
    "a surrogate": "\udcff\x00",
}
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def context(text: str, error: object = "x") -> Any:
    """A context in which everything that others decide is `text`."""
    ti = SimpleNamespace(
        dag_id=text,
        task_id=text,
        map_index=0,
        try_number=1,
        max_tries=1,
        log_url=f"http://a/{text}",
    )
    return {
        "ti": ti,
        "task": SimpleNamespace(name=text),
        "run_id": text,
        "exception": error,
        "params": {},
    }


def posted(monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, Any]:
    """The message about the pipeline file `text`, with the problems `text`."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(slack, "_post", lambda conn_id, message: sent.append(message))
    slack.post_file_message("slack", text, text)
    return sent[0]


def texts_of(message: dict[str, Any]) -> list[tuple[str, int]]:
    """Each text of the message, and the most that Slack accepts there."""
    texts = [(message["text"], 3_000)]
    for block in message["blocks"]:
        if "text" in block:
            assert block["text"]["verbatim"]
            texts.append((block["text"]["text"], 3_000))
        for field in block.get("fields", ()):
            assert field["verbatim"]
            texts.append((field["text"], 2_000))
    return texts


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", ["failure", "error", "recovery", "file"])
def test_no_text_from_outside_means_anything_to_slack(
    monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    """The fallback, which a phone shows, held the title as it was."""
    if kind == "failure":
        message = failure_message(context(text, RuntimeError(text)))
    elif kind == "error":
        message = failure_message(context("shop", text))
    elif kind == "recovery":
        message = recovery_message(context(text), Failure(since="now", run_id=text))
    else:
        message = posted(monkeypatch, text)
    for shown, most in texts_of(message):
        assert len(shown) <= most
        assert not STEERING.search(shown)
        # Of our own, there is one link, and a block of code between three backticks.
        without_link = re.sub(r"^<http://a/[^<>|\s]*\|Open the log>$", "", shown)
        assert "<" not in without_link and ">" not in without_link
        assert not re.search(r"&(?!(amp|lt|gt);)", without_link)
        is_block = shown.startswith(("*Error*\n```", "*Where*\n```", "*Problems*\n```"))
        assert shown.count("```") == (2 if is_block else 0)
        if without_link and not is_block and shown != message["text"]:
            assert shown.count("*") in (0, 2) and "~" not in shown and "\n\n" not in shown
    json.dumps(message).encode()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_from_outside_looks_like_a_line_of_airflows_log(
    caplog: pytest.LogCaptureFixture, text: str
) -> None:
    log_escaping.install()
    with caplog.at_level(logging.INFO, logger="loadsheet"):
        logging.getLogger("loadsheet.engine.execute").info("%s: %s", text, text)
    (record,) = caplog.records
    shown = record.getMessage()
    assert not STEERING.search(shown) and "\n" not in shown
    assert "::group::" not in shown and "::endgroup::" not in shown
    assert len(shown) < 20_000


def test_a_group_of_our_own_is_still_one(caplog: pytest.LogCaptureFixture) -> None:
    """And its title cannot end it."""
    log_escaping.install()
    log_escaping.install()
    with caplog.at_level(logging.INFO, logger="loadsheet"):
        logging.getLogger("loadsheet.engine.details").info("::group::%s", "extract ::endgroup::")
    (record,) = caplog.records  # once, however often it is installed
    assert record.getMessage() == "::group::extract : :endgroup: :"


def test_the_operators_and_the_bundle_log_through_the_door() -> None:
    import loadsheet.airflow.bundle
    import loadsheet.airflow.operators

    assert loadsheet.airflow.operators._log.name.startswith("loadsheet.")
    assert loadsheet.airflow.bundle._log.name.startswith("loadsheet.")
    handlers = logging.getLogger("loadsheet").handlers
    assert [type(handler).__name__ for handler in handlers].count("_Escaping") == 1
