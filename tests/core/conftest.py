"""Real servers for the core's tests; each starts when the first test asks for it. And the tables of
the tests of restores, and how tables are compared."""

from typing import Any

import pytest

from loadsheet.pinned import PinnedSession
from tests.core.restoring import TABLES, Copies, opened
from tests.project import Project
from tests.services import *  # noqa: F403


@pytest.fixture
def copies() -> Copies:
    """Copies of tables after each load, for the tests of restores."""
    return {}


@pytest.fixture
def shop(project: Project, copies: Copies) -> Project:
    """Loaded on three days, for the tests of restores."""
    return opened(project, copies, 2, TABLES)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each scan of a comparison has summed its rows, on either side: `total` or `buckets`."""
    looks: list[str] = []
    execute = PinnedSession.execute

    def noted(session: PinnedSession, query: Any, *more: Any, **options: Any) -> Any:
        if str(query).startswith("SELECT 0, count(*)"):
            looks.append("total")
        elif "AS bucket, count(*)" in str(query):
            looks.append("buckets")
        return execute(session, query, *more, **options)

    monkeypatch.setattr(PinnedSession, "execute", noted)
    return looks
