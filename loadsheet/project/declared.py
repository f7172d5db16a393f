"""Connections and pools that pipelines name and the project's connections/ does not declare.

Not part of a file's own check, which is cached by the file's content: this depends on other files
and on the environment. A project with connections/, or with connections in `.env`, declares them
there. Any other, and one whose Airflow has a secrets backend, may have an unknown id elsewhere:
only a likely typo is reported, as a warning. Pools are declared in connections/ alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from loadsheet.connections.airflow_side import SECRETS_BACKENDS
from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Finding, KeyPath, Problem
from loadsheet.spec.routes import CONNECTION_KEYS

POOLS = "connections/pools.json"
Rule = Callable[[Any], Iterator[Finding]]
"""What is wrong with the data of a pipeline file."""
_ENDS = ("source", "lake", "warehouse")
_POOL_SECTIONS = ("tables", "transforms")


def undeclared(project: File, files: Iterable[File]) -> list[Problem]:
    """The connections and pools in `files` that are not declared, and declarations that cannot be
    read."""
    if not _declares_any(project):
        return []
    from loadsheet.spec.strict_yaml import read_document

    problems: list[Problem] = []
    rules: list[Rule] = []
    # One file that cannot be read does not keep the other from being checked.
    for make_rule in (_connection_rule, _pool_rule):
        try:
            rules.append(make_rule(project))
        except SpecError as error:
            problems += error.problems
    for file in files:
        try:
            document = read_document(file)
        except SpecError:
            continue  # reported by its own check
        for rule in rules:
            problems += [document.problem(finding) for finding in rule(document.data)]
    return problems


def _declares_any(project: File) -> bool:
    """Whether there is something to compare with. If not, the files need not be read again."""
    if (project / "connections").is_dir() or (project / ".env").is_file():
        return True
    return any(name.startswith("AIRFLOW_CONN_") for name in os.environ)


def _connection_rule(project: File) -> Rule:
    """Raises SpecError when the declared connections cannot be read."""
    from loadsheet.connections.lookup import declared_connections

    declared = declared_connections(project)

    def rule(data: Any) -> Iterator[Finding]:
        for path in _connection_paths(data):
            name = _value_at(data, path)
            # A URI in the place of an id is reported by the file's own check.
            if not _is_name(name) or "://" in name or declared.is_declared(name):
                continue
            message = f"there is no connection {name!r} in connections/ or the environment"
            hint = (
                f"add it to connections/connections.yml, or set AIRFLOW_CONN_{name.upper()}; if"
                f" Airflow's secrets backend has it, set {SECRETS_BACKENDS[0]} here as there"
            )
            finding = _finding("unknown-connection", path, message, name, declared.ids, hint)
            meant = closest(name, declared.ids)
            if not declared.may_be_elsewhere:
                yield finding
            elif meant:
                hint = f"did you mean {meant!r}? else Airflow must have it"
                yield replace(finding, hint=hint, severity="warning")

    return rule


def _pool_rule(project: File) -> Rule:
    """Raises SpecError when the file of pools cannot be read. Without it no pool is unknown."""
    file = project / POOLS
    declared: set[str] = set()
    if file.is_file():
        declared = {"default_pool", *_pool_names(file)}

    def rule(data: Any) -> Iterator[Finding]:
        if not declared:
            return
        for path in _pool_paths(data):
            name = _value_at(data, path)
            if _is_name(name) and name not in declared:
                message = f"there is no pool {name!r} in {POOLS}"
                hint = f"add it to {POOLS}"
                yield _finding("unknown-pool", path, message, name, declared, hint)

    return rule


def _is_name(value: Any) -> bool:
    # What is no text, or empty, is reported by the file's own check.
    return isinstance(value, str) and value != ""


def _connection_paths(data: Any) -> Iterator[KeyPath]:
    """Where a pipeline file may name a connection."""
    for end in _ENDS:
        yield (end, "conn_id")
    routes = _value_at(data, ("notify",))
    paths: list[KeyPath] = [("notify",)]
    if isinstance(routes, list):
        paths = [("notify", place) for place in range(len(routes))]
    for path in paths:
        for key in CONNECTION_KEYS:
            yield (*path, key)


def _pool_paths(data: Any) -> Iterator[tuple[str, ...]]:
    """Where a pipeline file may name a pool."""
    yield from (("tasks", "pool"), ("defaults", "pool"))
    for section in _POOL_SECTIONS:
        entries = _value_at(data, (section,))
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
    example = '{"slow": {"slots": 2, "description": ""}}'
    problem = Problem(
        file=str(file),
        line=line,
        column=column,
        path="",
        message=message,
        hint=f"for example {example}, as `airflow pools export` writes it",
        code="unreadable-file",
    )
    raise SpecError([problem])


def _finding(
    code: str, path: KeyPath, message: str, name: str, declared: Collection[str], hint: str
) -> Finding:
    meant = closest(name, declared)
    if meant:
        hint = f"did you mean {meant!r}? else {hint}"
    return Finding(code, path=path, message=message, hint=hint)


def _value_at(data: Any, path: KeyPath) -> Any:
    """The value at `path`, whose numbers are places that its lists have; None where there is
    none."""
    for key in path:
        if isinstance(key, int):
            data = data[key]
        elif isinstance(data, dict):
            data = data.get(key)
        else:
            return None
    return data
