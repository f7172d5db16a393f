"""From Airflow 3.4 on: how a parse tells Airflow that the source of a DAG is its pipeline file.

Airflow 3.3 shows the file that the DAG names (`loadsheet.airflow.dag_file`); 3.4 asks the importer
of the file. Importers could replace the bundle's DAG files, but not yet: 3.4 ignores the other
files that a parse has read, so that an edit of a transform's SQL would go unnoticed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk.importers import (
    DagSourceCode,
    PythonDagImporter,
    get_importer_registry,
)

from loadsheet.spec.files import read_text

if TYPE_CHECKING:
    from airflow.dag_processing.bundles.base import BaseDagBundle
    from airflow.sdk.importers import DagDefinition, DagImportResult, FileDagDefinition

_airflows_log = logging.getLogger("airflow.sdk.importers.base")


class PipelineImporter(PythonDagImporter):
    """Imports the bundle's DAG files."""

    def __init__(self) -> None:
        super().__init__(extensions=[".py"])
        self._pipeline_files: dict[str, Path] = {}

    def import_definition(
        self, definition: FileDagDefinition, bundle: BaseDagBundle
    ) -> DagImportResult:
        """The DAG of the DAG file, as Airflow's own importer returns it."""
        result = super().import_definition(definition, bundle)
        for dag in result.dags:
            pipeline_file = getattr(dag, "pipeline_file", None)
            if pipeline_file:
                self._pipeline_files[dag.dag_id] = Path(pipeline_file)
        return result

    def get_source_code(
        self, definition: DagDefinition, dag_id: str | None = None
    ) -> DagSourceCode:
        """The text of the pipeline file that the DAG comes from.

        Raises SpecError if it can no longer be read: Airflow logs that, and keeps what it has.
        """
        pipeline_file = self._pipeline_files.get(dag_id or "")
        if pipeline_file is None:
            return super().get_source_code(definition, dag_id)
        return DagSourceCode(source_code=read_text(pipeline_file), language="yaml")


def use_for(bundle_name: str) -> None:
    """Let the bundle's DAG files be imported by PipelineImporter, in this process and its forks.

    An importer that the deployment has configured for Python files stays.
    """
    importers = get_importer_registry(bundle_name)
    if type(importers.get_importer("dag.py")) is not PythonDagImporter:
        return
    level = _airflows_log.level
    # It warns of a file kind that changes hands, in the log of every task.
    _airflows_log.setLevel(logging.ERROR)
    try:
        importers.register(PipelineImporter())
    finally:
        _airflows_log.setLevel(level)
