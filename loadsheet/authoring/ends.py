"""Which connections a new pipeline goes between, as far as the project leaves no choice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from loadsheet.connections.lookup import connection_types
from loadsheet.errors import InputError
from loadsheet.names import closest
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import check_file, find_specs

_LAKES = ("generic", "aws", "s3", "minio")


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Connection ids of a new pipeline, and the lake's bucket."""

    source: str
    warehouse: str
    lake: str
    bucket: str
    slack: str | None
    used_schemas: frozenset[str]
    """Schemas of the warehouse that other pipelines of the project write to."""

    @staticmethod
    def of(
        project: Path,
        *,
        source: str | None,
        warehouse: str | None,
        lake: str | None,
        bucket: str | None,
    ) -> Ends:
        """The given ones; else those of the project's other pipelines, where they agree; else the
        only ones left.

        Raises InputError that names the candidates where there is more than one, or none.
        """
        types = connection_types(project)
        checked = [check_file(spec)[0] for spec in find_specs(project)]
        others = [pipeline for pipeline in checked if pipeline]
        databases = [name for name, kind in types.items() if kind == "postgres"]
        lakes = [name for name, kind in types.items() if kind in _LAKES]
        known = {p.warehouse.conn_id for p in others} or {
            name for name in databases if "warehouse" in name.lower()
        }
        warehouse = _one("warehouse", warehouse, known or set(databases) - {source}, types)
        source = _one("source", source, set(databases) - {warehouse}, types)
        lake = _one("lake", lake, {p.lake.conn_id for p in others} or lakes, types)
        slack = {name for name, kind in types.items() if kind == "slackwebhook"}
        only_slack = slack.pop() if len(slack) == 1 else None
        used_schemas: set[str] = set()
        for pipeline in others:
            if pipeline.warehouse.conn_id == warehouse:
                used_schemas |= {pipeline.warehouse.schema, pipeline.warehouse.mart_schema}
        return Ends(
            source=source,
            warehouse=warehouse,
            lake=lake,
            bucket=bucket or _bucket(lake, others),
            slack=only_slack,
            used_schemas=frozenset(used_schemas),
        )


def _one(role: str, given: str | None, candidates: Iterable[str], known: Collection[str]) -> str:
    if given is not None and given in known:
        return given
    if given is not None:
        meant = closest(given, known)
        hint = f"the project has {', '.join(sorted(known)) or 'none'}"
        if meant:
            hint = f"did you mean {meant!r}?"
        raise InputError(
            f"connection {given!r} is not defined ({hint}): add it to connections/connections.yml, "
            f"or set AIRFLOW_CONN_{given.upper()}"
        )
    found = sorted(set(candidates))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"which connection is the {role}? Say --{role}, one of: {', '.join(found)}"
        )
    raise InputError(
        f"no connection can be the {role}: add one to connections/connections.yml, or set"
        f" AIRFLOW_CONN_<ID>, and name it with --{role}"
    )


def _bucket(lake: str, others: Iterable[Pipeline]) -> str:
    """The bucket that other pipelines use there, else the connection's id."""
    used = {pipeline.lake.bucket for pipeline in others if pipeline.lake.conn_id == lake}
    name = re.sub(r"[^a-z0-9]+", "-", lake.lower()).strip("-")
    return used.pop() if len(used) == 1 else name if len(name) >= 3 else f"{name}-lake"
