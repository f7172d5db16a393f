"""The DAG bundle of a project in Git: each pipeline file is one DAG file. Needs
apache-airflow-providers-git."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from airflow.providers.git.bundles.git import GitDagBundle

from loadsheet.airflow.bundle import PipelineBundle, prepare_to_parse
from loadsheet.airflow.stubs import Stubs


class GitPipelineBundle(GitDagBundle, PipelineBundle):
    """Takes the arguments of GitDagBundle; `subdir` is the project's folder in the repository.

    A run keeps the commit it was scheduled with: its pipeline and its SQL are read from a clone of
    that commit.
    """

    @property
    def project(self) -> Path:
        """The project in the clone."""
        return super().path

    @cached_property
    def stubs(self) -> Stubs:
        """The DAG files. Those of a version are in its clone, and are removed with it. Those of the
        newest commit are outside of the clone, so that no commit can add Python files there."""
        if self.version:
            return Stubs(self.project, self.repo_path, prefix=".", name=self.name)
        return super().stubs

    @property
    def path(self) -> Path:
        """Where Airflow finds the DAG files."""
        return self.stubs.dags

    def refresh(self) -> None:
        """Fetch, then update the DAG files. Raises Git's errors, and FileNotFoundError if there are
        no pipelines."""
        super().refresh()
        # While a bundle is initialized it may be in a worker, which parses only once.
        if self.is_initialized:
            prepare_to_parse()
        self.stubs.refresh()
        if self.is_initialized:
            self.pools.refresh()
            self.messages.send()
