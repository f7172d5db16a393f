"""Real servers for the core's tests; each starts when the first test asks for it. And the tables of
the tests of restores."""

import pytest

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
