"""Connections and pools that pipelines name, beside those that the project's connections/ declares.

Not part of a file's own check, which is remembered by the file's content: this depends on other
files and on the environment. A project without connections/ keeps them somewhere else, and nothing
is said. Where Airflow has a secrets backend, an unknown id may be one of its own: only one that
looks like a slip is shown, as a warning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Finding, KeyPath, Problem

POOLS = "connections/pools.json"
_CONNECTIONS = (
    ("source", "conn_id"),
    ("lake", "conn_id"),
    ("warehouse", "conn_id"),
    ("notify", "slack_conn_id"),
)
_POOL_SECTIONS = ("tables", "transforms")


def undeclared(project: File, files: Iterable[File]) -> list[Problem]:
    """The connections and pools in `files` that are not declared; and a declaration that cannot be
    read."""
    if not (project / "connections").is_dir():
        return []
    from loadsheet.spec.strict_yaml import read_document

    problems: list[Problem] = []
    rules = [*_rule(_connections, project, problems), *_rule(_pools, project, problems)]
    for file in files:
        try:
            document = read_document(file)
        except SpecError:
            continue  # its own check has said so
        problems += [document.problem(finding) for rule in rules for finding in rule(document.data)]
    return problems


Rule = Callable[[Any], Iterator[Finding]]


def _rule(make: Callable[[File], Rule], project: File, problems: list[Problem]) -> list[Rule]:
    try:
        return [make(project)]
    except SpecError as error:
        problems += error.problems
        return []


def _connections(project: File) -> Rule:
    from loadsheet.connections.lookup import SECRETS_BACKENDS, declared_connections

    known, is_declared, has_backend = declared_connections(project)

    def rule(data: Any) -> Iterator[Finding]:
        for path in _CONNECTIONS:
            name = _at(data, path)
            if isinstance(name, str) and name and "://" not in name and not is_declared(name):
                message = f"there is no connection {name!r} in connections/ or the environment"
                hint = (
                    f"add it to connections/connections.yml, or set AIRFLOW_CONN_{name.upper()}; if"
                    f" Airflow's secrets backend has it, set {SECRETS_BACKENDS[0]} here as there"
                )
                finding = _finding("unknown-connection", path, message, name, known, hint)
                if not has_backend:
                    yield finding
                elif meant := closest(name, known):
                    hint = f"did you mean {meant!r}? else the secrets backend must have it"
                    yield replace(finding, hint=hint, severity="warning")

    return rule


def _pools(project: File) -> Rule:
    file = project / POOLS
    known = {"default_pool", *_pool_names(file)} if file.is_file() else None

    def rule(data: Any) -> Iterator[Finding]:
        for path in _pool_paths(data) if known else ():
            name = _at(data, path)
            if known and isinstance(name, str) and name and name not in known:
                message = f"there is no pool {name!r} in {POOLS}"
                yield _finding("unknown-pool", path, message, name, known, f"add it to {POOLS}")

    return rule


def _pool_paths(data: Any) -> Iterator[tuple[str, ...]]:
    yield from (("tasks", "pool"), ("defaults", "pool"))
    for section in _POOL_SECTIONS:
        entries = _at(data, (section,))
        if isinstance(entries, dict):
            for name in entries:
                yield (section, name, "pool")


def _pool_names(file: File) -> list[str]:
    """In the format of `airflow pools import`. Raises SpecError."""
    try:
        pools = json.loads(file.read_bytes())
        if isinstance(pools, dict):
            return list(pools)
        line, column, message = 1, 1, "expected a mapping from pool names to pools"
    except json.JSONDecodeError as error:
        line, column, message = error.lineno, error.colno, f"not valid JSON: {error.msg}"
    except (OSError, ValueError, RecursionError) as error:
        line, column, message = 1, 1, f"the file cannot be read: {type(error).__name__}"
    hint = (
        'for example {"slow": {"slots": 2, "description": ""}}, as `airflow pools export` writes it'
    )
    place = {"file": str(file), "line": line, "column": column, "path": ""}
    raise SpecError([Problem(**place, message=message, hint=hint, code="unreadable-file")])  # type: ignore[arg-type]


def _finding(
    code: str, path: KeyPath, message: str, name: str, known: Collection[str], add: str
) -> Finding:
    meant = closest(name, known)
    return Finding(
        code,
        path=path,
        message=message,
        hint=f"did you mean {meant!r}? else {add}" if meant else add,
    )


def _at(data: Any, path: Iterable[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data
