"""The pipelines of a Git repository, each a DAG file of its own. Needs apache-airflow-providers-git."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from airflow.configuration import conf
from airflow.providers.git.bundles.git import GitDagBundle

from dags.bundle import PipelineBundle, import_what_a_parse_needs
from dags.stubs import Stubs


class GitPipelineBundle(GitDagBundle, PipelineBundle):
    """Takes what GitDagBundle takes; `subdir` is the project's folder in the repository.

    A run keeps the commit it was scheduled with: its pipeline and its SQL are read from that commit's own clone.
    """

    @property
    def project(self) -> Path:
        """The project in the clone."""
        return super().path

    @cached_property
    def stubs(self) -> Stubs:
        """In the clone itself, which is Airflow's: what removes an old version removes them too."""
        forget = conf.getint("dag_processor", "stale_dag_threshold")
        return Stubs(self.project, self.repo_path, prefix=".", forget=forget)

    @property
    def path(self) -> Path:
        """Where Airflow finds the DAG files."""
        return self.stubs.dags

    def refresh(self) -> None:
        """Fetch, then pass on what has changed. Raises what Git does, and FileNotFoundError without pipelines."""
        super().refresh()
        import_what_a_parse_needs()
        self.stubs.refresh()
