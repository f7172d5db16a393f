"""connections.yml with its `${VAR}` filled in, for `airflow connections import`, which fills in
nothing itself.

    python -m loadsheet.connections.export [PROJECT] > connections.json

The output holds secrets: write it where no other user can read it (umask 077), and delete it after
the import.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadsheet.connections.file import read_connections
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError


def export_connections(
    project: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, dict[str, Any]]:
    """Every connection of `project`'s connections.yml in Airflow's import format: all values known,
    ports numbers.

    Raises ConnectionMissing for a variable without a value, InputError for a file that holds no
    connections.
    """
    entries = read_connections(project / "connections" / "connections.yml")
    connections = project_connections(project, environ)
    return {
        conn_id: _described(entry) | _fields(connections(conn_id))
        for conn_id, entry in entries.items()
    }


def _fields(connection: object) -> dict[str, Any]:
    return {name: value for name, value in vars(connection).items() if value and name != "conn_id"}


def _described(entry: Any) -> dict[str, Any]:
    return (
        {"description": entry["description"]}
        if isinstance(entry, dict) and "description" in entry
        else {}
    )


def main() -> int:
    """Print the connections of the project given as argument (default: the folder we are in); 2
    when input is wrong."""
    try:
        print(json.dumps(export_connections(Path(*sys.argv[1:2])), indent=2))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
