"""DAG bundles for which every `pipelines/<name>/pipeline.yml` is a DAG file of its own: see
docs/bundle.md.

A project on disk here; one in a Git repository in `loadsheet.airflow.git_bundle`.
"""

from __future__ import annotations

import gc
import logging
from abc import abstractmethod
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path

from airflow.configuration import conf
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.bundles.local import LocalDagBundle

from loadsheet.airflow.stubs import Stubs
from loadsheet.spec.compiled import checker_version

_log = logging.getLogger(__name__)
# What a parse needs. It is a fork of the DAG processor: what that has imported, no parse has to.
_PARSING = (
    "dagfactory.dagbuilder",
    "loadsheet.airflow.dag_file",
    "loadsheet.airflow.operators",
    "loadsheet.airflow.slack",
    "loadsheet.spec.build",
    "loadsheet.spec.dependencies",
    "loadsheet.spec.rules.pipeline",
    "loadsheet.spec.schema",
    "loadsheet.spec.sql_files",
    "loadsheet.spec.sql_reading",
    "loadsheet.spec.strict_yaml",
)


class PipelineBundle(BaseDagBundle):
    """What the bundles here share. A class puts it after the bundle that brings the project, whose
    `initialize` then calls ours when the project is there."""

    @property
    @abstractmethod
    def project(self) -> Path:
        """The folder that holds `pipelines/`."""

    @cached_property
    def stubs(self) -> Stubs:
        """The DAG files; never in the user's own folder."""
        return Stubs(
            self.project, self.base_dir, forget=conf.getint("dag_processor", "stale_dag_threshold")
        )

    def initialize(self) -> None:
        """Write the DAG files that are missing. Raises FileNotFoundError when there are no
        pipelines."""
        self.stubs.add()
        super().initialize()


class LocalPipelineBundle(LocalDagBundle, PipelineBundle):
    """The pipelines of the project folder `path`."""

    @property
    def project(self) -> Path:
        """`path`, as configured."""
        return super().path

    @property
    def path(self) -> Path:
        """Where Airflow finds the DAG files."""
        return self.stubs.dags

    def refresh(self) -> None:
        """Pass on what was edited, added and deleted. Raises FileNotFoundError when there are no
        pipelines."""
        super().refresh()
        prepare_to_parse()
        self.stubs.refresh()


@cache
def prepare_to_parse() -> None:
    """Once, before the DAG processor forks: import what a parse needs, and say what would keep
    edits from being seen.

    A module that cannot be imported is left for the parse to report. Raises ModuleNotFoundError for
    a module of ours that does not exist: this list was not kept up, and every parse would be slow.
    """
    for module in _PARSING:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("loadsheet."):
                raise
            _log.exception("%s cannot be imported", module)
        except Exception:
            _log.exception("%s cannot be imported", module)
    # now: after an update the files are no longer the code that runs here, and finds what is
    # remembered
    checker_version()
    gc.collect()
    gc.freeze()  # as Airflow does with its own: else a fork's first collection copies all of it
    order = conf.get("dag_processor", "file_parsing_sort_mode")
    if order != "modified_time":
        _log.error(
            "[dag_processor] file_parsing_sort_mode is %r: edits wait for"
            " min_file_process_interval, as Airflow asks for a file's time only with"
            " 'modified_time'",
            order,
        )
