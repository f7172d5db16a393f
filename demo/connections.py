"""connections/connections.yml into Airflow, with this machine's ports and passwords filled in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from demo.airflow import Airflow
from loadsheet.connections.export import export_connections


def import_connections(
    airflow: Airflow, project: Path, scratch: Path, variables: Mapping[str, str]
) -> None:
    """Fill in `variables`, and import with Airflow's own command. The filled file in `scratch` is
    deleted.

    Raises ConnectionMissing for a variable without a value, ServerFailed when Airflow refuses the
    file.
    """
    # A copy away from the project: its .env may describe other servers.
    copy = scratch / "project" / "connections"
    copy.mkdir(parents=True)
    shutil.copy(project / "connections" / "connections.yml", copy)
    filled = scratch / "connections.json"
    filled.touch(mode=0o600)
    try:
        filled.write_text(json.dumps(export_connections(copy.parent, variables)))
        airflow.run("connections", "import", "--overwrite", str(filled))
    finally:
        filled.unlink()
