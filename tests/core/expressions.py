"""What the tests of cursors that an expression gives share: many cases in one database, each with
tables of names of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.project import Project


def column(definition: str) -> str:
    return f"CREATE TABLE t (id int PRIMARY KEY, {definition})"


def named(text: str, table: str) -> str:
    """The statement, or a part of a message, with names of its own."""
    return re.sub(r"\b(t|v|d|s|p|whole)\b", rf"{table}_\1", text)


def names(cases: Iterable[str]) -> dict[str, str]:
    """The name of each case's table."""
    return {case: re.sub(r"\W+", "_", case) for case in cases}


def entry(**more: Any) -> dict[str, Any]:
    return {"incremental": {"cursor": "at", **more}, "primary_key": "id"}


def errors_of_plan(project: Project) -> dict[str, str]:
    """The first error of each step that would fail."""
    planned = project.cli("plan", "shop", "--connect", "--json")
    found = {}
    for step in json.loads(planned.stdout)["steps"]:
        errors = [each for each in step["now"]["remarks"] if each["severity"] == "error"]
        if errors:
            found[step["id"]] = errors[0]["message"]
    return found
