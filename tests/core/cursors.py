"""What the tests of cursors share: how an extract of one table ended."""

from __future__ import annotations

from tests.project import Project


def refusal(project: Project, table: str = "t", **request: object) -> Exception:
    """Why the extract of a run ended without a result."""
    result = project.run(**request)[f"extract.extract_{table}"].result
    assert isinstance(result, Exception), result
    return result
