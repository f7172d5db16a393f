"""Text from outside in alerts and in Airflow's log: it neither notifies anybody, nor
looks like something else than it is, nor fills the channel."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from loadsheet.airflow import log_escaping
from loadsheet.airflow.alerts.email import email_of
from loadsheet.airflow.alerts.incidents import Failure
from loadsheet.airflow.alerts.message import Message
from loadsheet.airflow.alerts.pagerduty import pagerduty_message
from loadsheet.airflow.alerts.slack import slack_message
from loadsheet.airflow.alerts.task_messages import drift_message, failure_message, recovery_message
from loadsheet.airflow.alerts.teams import teams_message
from loadsheet.airflow.alerts.webhook import webhook_message
from loadsheet.airflow.digest_message import digest_message
from loadsheet.airflow.operators import as_airflow_errors
from loadsheet.airflow.spec_alerts import file_message
from loadsheet.errors import CheckFailed
from loadsheet.freshness.day import Day, Failing
from tests.airflow import published_shapes as shapes

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
    "markdown": "**bold** [log](https://evil.example) <at>everyone</at> # x",
    "html": "</pre><img src=x onerror=alert(1)><a href='https://evil.example'>log</a>",
    "headers": "x\r\nBcc: all@example.com\r\n\r\n<html>",
    "letters": "\U0001d4d0" * 5_000,
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


def failed_check(text: str) -> BaseException:
    """As Airflow is given it."""
    try:
        with as_airflow_errors():
            raise CheckFailed(text, text, 1)
    except Exception as error:
        return error


def digest_of(text: str) -> Message:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    failing = [Failing(target=text, reason=text, is_check=False)] * 2
    day = Day(
        pipeline=text,
        failing=failing,
        late=[text],
        differing=[text] * 9,
        drift=[text],
        recovered=[text],
        waiting=[text],
    )
    unknown = Day(pipeline=text, unknown=text)
    return digest_message([day, unknown], [text], now, now, "http://a/loadsheet/")


def messages(text: str) -> dict[str, Message]:
    """Each kind of message, in which all that others decide is `text`."""
    return {
        "failure": failure_message(context(text, RuntimeError(text))),
        "error": failure_message(context("shop", text)),
        "check": failure_message(context(text, failed_check(text))),
        "recovery": recovery_message(context(text), Failure(since="now", run_id=text)),
        "drift": drift_message(context(text), {text: [text]}),
        "file": file_message(text, text),
        "digest": digest_of(text),
    }


MESSAGES = [
    pytest.param(message, id=f"{kind}-{name}")
    for name, text in HOSTILE.items()
    for kind, message in messages(text).items()
]


@pytest.mark.parametrize("message", MESSAGES)
def test_no_text_from_outside_means_anything_to_slack(message: Message) -> None:
    """The fallback, which a phone shows, held the title as it was."""
    sent = slack_message(message)
    jsonschema.validate(sent, shapes.SLACK)
    shown_texts = [sent["text"]]
    for block in sent["blocks"]:
        parts = [block["text"]] if "text" in block else block["fields"]
        assert all(part["verbatim"] for part in parts)
        shown_texts += [part["text"] for part in parts]
    for shown in shown_texts:
        assert not STEERING.search(shown)
        # Of our own, there is one link, and a block of code between three backticks.
        without_link = re.sub(r"^<http://a/[^<>|\s]*\|Open (the log|Loadsheet)>$", "", shown)
        assert "<" not in without_link and ">" not in without_link
        assert not re.search(r"&(?!(amp|lt|gt);)", without_link)
        is_block = (
            re.match(r"\*(Error|Where|Problems|Changes|Needs a look)\*\n```", shown) is not None
        )
        assert shown.count("```") == (2 if is_block else 0)
        if without_link and not is_block and shown != sent["text"]:
            assert shown.count("*") in (0, 2) and "~" not in shown and "\n\n" not in shown


@pytest.mark.parametrize("message", MESSAGES)
def test_no_text_from_outside_means_anything_to_teams(message: Message) -> None:
    """Teams reads Markdown in every element but a run of text, and mentions only where the card
    names them."""
    sent = teams_message(message)
    jsonschema.validate(sent, shapes.TEAMS)
    text = json.dumps(sent, ensure_ascii=False)
    assert len(text.encode()) <= shapes.TEAMS_BYTES and not STEERING.search(text)


def test_in_another_element_it_would() -> None:
    """The negative control."""
    sent = teams_message(messages("**bold**")["failure"])
    card = sent["attachments"][0]["content"]
    card["body"].append({"type": "TextBlock", "text": "**bold**"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(sent, shapes.TEAMS)


def test_the_longest_message_fits_teams() -> None:
    """28 kB, in letters of four bytes."""
    test_no_text_from_outside_means_anything_to_teams(messages("\U0001d4d0" * 20_000)["failure"])
    lines = "\U0001d4d0" * 500 + "\n"
    test_no_text_from_outside_means_anything_to_teams(messages(lines * 100)["failure"])


@pytest.mark.parametrize("message", MESSAGES)
def test_no_text_from_outside_breaks_what_pagerduty_and_webhooks_read(message: Message) -> None:
    is_note = message.state == "note"
    event = pagerduty_message(message, "0" * 32)
    jsonschema.validate(event, shapes.PAGERDUTY_CHANGE if is_note else shapes.PAGERDUTY_EVENT)
    document = webhook_message(message)
    jsonschema.validate(document, shapes.WEBHOOK)
    for sent in (event, document):
        text = json.dumps(sent, ensure_ascii=False)
        assert len(text.encode("utf-8")) < 500_000  # PagerDuty takes 512 kB
        assert not STEERING.search(text)


class Tags(HTMLParser):
    """The elements of a page, and where its links lead."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = dict(attrs)
        assert names.keys() <= {"style", "align", "href"}
        self.links += [names["href"]] if "href" in names else []


OUR_TAGS = {"h3", "table", "tr", "th", "td", "h4", "pre", "p", "a"}


@pytest.mark.parametrize("message", MESSAGES)
def test_no_text_from_outside_means_anything_to_a_mail_program(message: Message) -> None:
    mail = message_from_bytes(
        bytes(email_of(message, "from@example.com", ("to@example.com",))), policy=policy.default
    )
    assert isinstance(mail, EmailMessage)
    assert (mail["From"], mail["To"]) == ("from@example.com", "to@example.com")
    assert set(mail.keys()) <= {
        *("Subject", "From", "To", "Date", "Auto-Submitted", "References"),
        *("MIME-Version", "Content-Type"),
    }
    assert len(mail["Subject"]) <= 200 and not STEERING.search(mail["Subject"])
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain and html and not STEERING.search(plain.get_content() + html.get_content())
    page = Tags(html.get_content())
    assert page.tags <= OUR_TAGS and page.links in ([], [message.link])


def test_an_email_of_unescaped_text_would_be_noticed() -> None:
    """The negative control: a link of another, and an image that tells who reads it."""
    for text in ("<a href='https://evil.example'>log</a>", "<img src=x onerror=alert(1)>"):
        try:
            page = Tags(f"<p>{text}</p>")
        except AssertionError:
            continue
        assert not (page.tags <= OUR_TAGS and page.links in ([], ["http://a/log"]))


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
