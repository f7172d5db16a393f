"""How Airflow knows this package: `airflow providers list` shows it."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Loadsheet"


def get_provider_info() -> dict[str, Any]:
    """The entry point `apache_airflow_provider`, in the form of Airflow's provider_info schema."""
    return {
        "package-name": "loadsheet",
        "name": _INTEGRATION,
        "description": "PostgreSQL tables through an S3 lake into a warehouse, from YAML files.",
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": ["loadsheet.airflow.operators"],
            }
        ],
        "bundles": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": ["loadsheet.airflow.bundle", "loadsheet.airflow.git_bundle"],
            }
        ],
        "integrations": [{"integration-name": _INTEGRATION, "tags": ["software"]}],
    }
