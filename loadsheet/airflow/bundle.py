"""DAG bundles in which every `pipelines/<name>/pipeline.yml` is one DAG file: see docs/bundle.md.

This module has the bundle of a project on disk, `loadsheet.airflow.git_bundle` that of a project in
Git.
"""

from __future__ import annotations

import gc
import logging
from abc import abstractmethod
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from airflow.configuration import conf
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.bundles.local import LocalDagBundle

from loadsheet.airflow import log_escaping
from loadsheet.airflow.pools import Pools
from loadsheet.airflow.preload import PARSING, preload
from loadsheet.airflow.spec_alerts import Messages
from loadsheet.airflow.stubs import Stubs
from loadsheet.spec.compiled import checker_version

_log = logging.getLogger(__name__)
log_escaping.install()


class PipelineBundle(BaseDagBundle):
    """The part that both bundles share.

    A subclass names it after the bundle that fetches the project, whose `initialize` then calls
    ours when the project is there.
    """

    @property
    @abstractmethod
    def project(self) -> Path:
        """The folder that holds `pipelines/`."""

    @cached_property
    def stubs(self) -> Stubs:
        """The DAG files, which are never in the user's project."""
        forget = conf.getint("dag_processor", "stale_dag_threshold")
        return Stubs(self.project, self.base_dir, forget=forget, name=self.name)

    @cached_property
    def pools(self) -> Pools:
        """The pools of Airflow, for the parses of the DAG files."""
        return Pools(self.stubs)

    @cached_property
    def messages(self) -> Messages:
        """The alerts that the parses of the DAG files have left."""
        return Messages(self.stubs)

    def initialize(self) -> None:
        """Write the DAG files that are missing. Raises FileNotFoundError if there is no
        `pipelines`."""
        self.stubs.add()
        if find_spec("airflow.sdk.importers"):  # from Airflow 3.4 on
            from loadsheet.airflow.importer import use_for

            use_for(self.name)
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
        """Update the DAG files for what was edited, added and deleted. Raises FileNotFoundError if
        there is no `pipelines`."""
        super().refresh()
        prepare_to_parse()
        self.stubs.refresh()
        self.pools.refresh()
        self.messages.send()


@cache
def prepare_to_parse() -> None:
    """Once, before the DAG processor forks: import what a parse needs, and log the setting that
    would delay edits. Raises as `preload`."""
    preload(PARSING)
    # Computes and caches the hash of our code now: after an update, the files on disk are no longer
    # the code that runs here, and that code would use results of the new one.
    checker_version()
    gc.collect()
    # As Airflow does with its own modules: otherwise the first collection of each fork copies the
    # memory of all of them.
    gc.freeze()
    order = conf.get("dag_processor", "file_parsing_sort_mode")
    if order != "modified_time":
        _log.error(
            "[dag_processor] file_parsing_sort_mode is %r: edits wait for"
            " min_file_process_interval, because Airflow looks at a file's time only with"
            " 'modified_time'",
            order,
        )
