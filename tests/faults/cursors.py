"""What tests of cursors share."""

from __future__ import annotations

from loadsheet.errors import Refused
from tests.project import Project


def refused(project: Project, says: str, then: dict[str, object]) -> None:
    """The extraction of `item` is refused with these words; with a chosen lookback it is not."""
    error = project.run()["extract.extract_item"].result
    assert (
        isinstance(error, Refused) and says in str(error) and "incremental.lookback" in str(error)
    ), error
    project.spec({"item": {"incremental": then}})
    project.succeed()
