"""A server that does not answer costs the page a moment, and one thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from loadsheet.airflow import page_answers
from loadsheet.airflow.page_answers import Answers, stored_connection
from loadsheet.connections.lookup import Connections
from loadsheet.errors import ConnectionMissing


class Server:
    """Answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0
        self.wrong: Exception | None = None

    def __call__(self, connections: Connections) -> dict[str, Any]:
        if connections is not stored_connection:
            with pytest.raises(ConnectionMissing) as caught:
                connections("warehouse")
            return {"unknown": str(caught.value)}
        self.asked += 1
        self.answers.wait(60)
        if self.wrong:
            raise self.wrong
        return {"answer": self.asked}


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(page_answers, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(page_answers, "FRESH", 0.0)
    return Server()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_asks_a_server_that_hangs_is_told_so_and_another_server_is_heard(
    hanging: Server,
) -> None:
    quick = Server()
    quick.answers.set()
    questions: dict[Hashable, page_answers.Work] = {"hanging": hanging, "quick": quick}
    unknown, answer = Answers().get(questions)
    assert "'warehouse' has not answered within 0.2 s" in unknown["unknown"]
    assert answer == {"answer": 1}
    hanging.answers.set()


def test_a_server_that_hangs_is_asked_once_however_many_people_look(hanging: Server) -> None:
    answers = Answers()
    for _ in range(5):
        answers.get({"hanging": hanging})
    assert hanging.asked == 1
    hanging.answers.set()
    until(lambda: "answer" in answers.get({"hanging": hanging})[0])


def test_as_many_questions_as_one_likes_cost_only_so_many_threads(hanging: Server) -> None:
    answers = Answers()
    questions: dict[Hashable, page_answers.Work] = dict.fromkeys(range(50), hanging)
    found = answers.get(questions)
    assert hanging.asked == 16 and all("'warehouse'" in one["unknown"] for one in found)
    assert len(answers._readings) == 16
    hanging.answers.set()
    until(lambda: all("answer" in one for one in answers.get({40: hanging, 49: hanging})))


def test_the_last_answer_is_shown_while_the_next_one_is_awaited(hanging: Server) -> None:
    answers = Answers()
    hanging.answers.set()
    assert answers.get({"hanging": hanging}) == [{"answer": 1}]
    hanging.answers.clear()
    assert answers.get({"hanging": hanging}) == [{"answer": 1}]
    assert hanging.asked == 2
    hanging.answers.set()


def test_who_cannot_wait_for_all_of_an_answer_gets_what_is_known_so_far(hanging: Server) -> None:
    """The second question is not asked: its work knows nothing yet."""

    class Halfway:
        def __init__(self) -> None:
            self.known = "nothing"

        def __call__(self, connections: Connections) -> dict[str, Any]:
            if connections is stored_connection:
                self.known = "half"
                hanging.answers.wait(60)
            return {"known": self.known}

    answers = Answers()
    for _ in range(2):
        assert answers.get({"overview": Halfway()}) == [{"known": "half"}]
    hanging.answers.set()


def test_an_answer_serves_all_who_ask_within_some_seconds(
    hanging: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_answers, "FRESH", 3600.0)
    answers = Answers()
    hanging.answers.set()
    for _ in range(3):
        assert answers.get({"hanging": hanging}) == [{"answer": 1}]


def test_a_failure_is_raised_and_is_no_answer_for_later(hanging: Server) -> None:
    answers = Answers()
    hanging.answers.set()
    hanging.wrong = ValueError("no such table")
    with pytest.raises(ValueError, match="no such table"):
        answers.get({"hanging": hanging})
    hanging.wrong = None
    assert answers.get({"hanging": hanging}) == [{"answer": 2}]


def test_what_nobody_asks_any_more_is_forgotten(
    hanging: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_answers, "_KEPT", 0.0)
    answers = Answers()
    hanging.answers.set()
    for number in range(10):
        answers.get({number: hanging})
    time.sleep(0.01)
    answers.get({"last": hanging})
    assert len(answers._readings) == 1 and not answers._last


def test_a_connection_is_found_as_the_api_server_finds_it_with_little_time_to_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PLAIN", "postgres://me:secret@host/db")
    own = {"conn_type": "postgres", "extra": {"connect_timeout": 60, "sslmode": "require"}}
    monkeypatch.setenv("AIRFLOW_CONN_OWN", json.dumps(own))
    assert stored_connection("plain").extra == {"connect_timeout": 4}
    assert stored_connection("own").extra == own["extra"]
