"""The pipelines of a Git repository, each a DAG file of its own. Needs
apache-airflow-providers-git."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from airflow.providers.git.bundles.git import GitDagBundle

from loadsheet.airflow.bundle import PipelineBundle, prepare_to_parse
from loadsheet.airflow.stubs import Stubs


class GitPipelineBundle(GitDagBundle, PipelineBundle):
    """Takes what GitDagBundle takes; `subdir` is the project's folder in the repository.

    A run keeps the commit it was scheduled with: its pipeline and its SQL are read from that
    commit's own clone.
    """

    @property
    def project(self) -> Path:
        """The project in the clone."""
        return super().path

    @cached_property
    def stubs(self) -> Stubs:
        """A version's are in its own clone: what removes that removes them too. Those of the newest
        commit are beside the clone, where no commit can bring Python files for Airflow to run."""
        if self.version:
            return Stubs(self.project, self.repo_path, prefix=".")
        return super().stubs

    @property
    def path(self) -> Path:
        """Where Airflow finds the DAG files."""
        return self.stubs.dags

    def refresh(self) -> None:
        """Fetch, then pass on what has changed. Raises what Git does, and FileNotFoundError without
        pipelines."""
        super().refresh()
        # else it may be a worker: a bundle without a version is also refreshed when it is made
        if self.is_initialized:
            prepare_to_parse()
        self.stubs.refresh()
