"""Which connections a new pipeline uses, where the project leaves only one choice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from loadsheet.connections.lookup import connection_types, project_connections
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.names import closest
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import check_file, find_specs

_LAKE_TYPES = ("generic", "aws", "s3", "minio")


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
        """The ones that are named; else those of the project's other pipelines, where they agree;
        else the only ones left.

        Raises InputError when a named connection is not defined, and when there is no candidate or
        more than one, with their names.
        """
        types = connection_types(project)
        for named in (source, warehouse, lake):
            if named is not None and named not in types:
                types |= _type_elsewhere(project, named)
        others = _pipelines(project)
        databases = {name for name, kind in types.items() if kind == "postgres"}
        warehouses = {other.warehouse.conn_id for other in others}
        if not warehouses:
            # Without other pipelines to go by, the connection's name has to tell.
            warehouses = {name for name in databases if "warehouse" in name.lower()}
        lakes = {other.lake.conn_id for other in others}
        if not lakes:
            lakes = {name for name, kind in types.items() if kind in _LAKE_TYPES}
        # The warehouse before the source, which can only be one of the databases that are left.
        warehouse = _only("warehouse", warehouse, warehouses or databases - {source}, types)
        source = _only("source", source, databases - {warehouse}, types)
        lake = _only("lake", lake, lakes, types)
        used_schemas: set[str] = set()
        for other in others:
            if other.warehouse.conn_id == warehouse:
                used_schemas |= {other.warehouse.schema, other.warehouse.mart_schema}
        # With several Slack connections, the user decides which one gets the messages.
        slack = None
        slack_ids = [name for name, kind in types.items() if kind == "slackwebhook"]
        if len(slack_ids) == 1:
            slack = slack_ids[0]
        return Ends(
            source=source,
            warehouse=warehouse,
            lake=lake,
            bucket=bucket or _bucket(lake, others),
            slack=slack,
            used_schemas=frozenset(used_schemas),
        )


def _type_elsewhere(project: Path, conn_id: str) -> dict[str, str]:
    """The id and the type of a connection that the project does not define and Airflow may have;
    empty where it is not found."""
    try:
        return {conn_id: project_connections(project)(conn_id).conn_type}
    except ConnectionMissing:
        return {}


def _pipelines(project: Path) -> list[Pipeline]:
    """The project's pipelines, without those whose files have problems."""
    pipelines = []
    for spec in find_specs(project):
        pipeline, _ = check_file(spec)
        if pipeline:
            pipelines.append(pipeline)
    return pipelines


def _only(
    role: str, named: str | None, candidates: Collection[str], defined: Collection[str]
) -> str:
    """The connection `named` by the user, else the only candidate."""
    if named is not None and named in defined:
        return named
    if named is not None:
        hint = f"the project has {', '.join(sorted(defined)) or 'none'}"
        meant = closest(named, defined)
        if meant:
            hint = f"did you mean {meant!r}?"
        raise InputError(
            f"connection {named!r} is not defined ({hint}): add it to connections/connections.yml, "
            f"or set AIRFLOW_CONN_{named.upper()}"
        )
    names = sorted(candidates)
    if len(names) == 1:
        return names[0]
    if names:
        raise InputError(
            f"which connection is the {role}? Name it with --{role}, one of: {', '.join(names)}"
        )
    raise InputError(
        f"no connection can be the {role}: add one to connections/connections.yml, or set"
        f" AIRFLOW_CONN_<ID>, and name it with --{role}"
    )


def _bucket(lake: str, others: Iterable[Pipeline]) -> str:
    """The bucket that the other pipelines use in this lake, where they agree; else a name made from
    the connection's id."""
    used = {other.lake.bucket for other in others if other.lake.conn_id == lake}
    if len(used) == 1:
        return used.pop()
    name = re.sub(r"[^a-z0-9]+", "-", lake.lower()).strip("-")
    if len(name) < 3:  # S3 refuses shorter names of buckets
        return f"{name}-lake"
    return name
