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
    """Every connection of `project`'s connections.yml in Airflow's import format, by id.

    Variables are filled in and ports are numbers. Raises ConnectionMissing for a variable without a
    value, InputError for a file that holds no connections.
    """
    entries = read_connections(project / "connections" / "connections.yml")
    connections = project_connections(project, environ)
    exported: dict[str, dict[str, Any]] = {}
    for conn_id, entry in entries.items():
        fields: dict[str, Any] = {}
        if isinstance(entry, dict) and "description" in entry:
            fields["description"] = entry["description"]
        for name, value in vars(connections(conn_id)).items():
            if value and name != "conn_id":
                fields[name] = value
        exported[conn_id] = fields
    return exported


def main() -> int:
    """Print the connections of the project given as argument (default: the current folder). Returns
    the exit code: 2 if the input is wrong."""
    try:
        print(json.dumps(export_connections(Path(*sys.argv[1:2])), indent=2))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
