"""A virtual environment into which the wheel has been installed, and its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Word = str | Path
Variables = Mapping[str, str]
ROOT = Path(__file__).resolve().parents[2]
# What would let the checkout, another project or other servers in.
_STEERING = ("PYTHON", "AIRFLOW", "LOADSHEET", "PG", "VIRTUAL_ENV")
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class Environment:
    """A virtual environment. `variables` are seen by every command that runs in it; `seconds` is
    how long it took to make and fill it."""

    folder: Path
    variables: Variables = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        paths = sysconfig.get_paths(vars={"base": str(self.folder), "platbase": str(self.folder)})
        return Path(paths["purelib"])

    def environ(self, more: Variables | None = None) -> dict[str, str]:
        """The variables of a command: ours without what steers Python or Airflow elsewhere."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_STEERING)}
        return {**inherited, **self.variables, **(more or {})}

    def run(
        self, *command: Word, at: Path, more: Variables | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment in the folder `at`."""
        program, *arguments = map(str, command)
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=at,
            env=self.environ(more),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def succeed(self, *command: Word, at: Path, more: Variables | None = None) -> str:
        """Run a command that must end with 0; what it printed."""
        done = self.run(*command, at=at, more=more)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *command: Word, at: Path, more: Variables | None = None) -> Any:
        """Run a command that prints one JSON document."""
        return json.loads(self.succeed(*command, at=at, more=more))

    def airflow(self, *command: Word, at: Path, more: Variables | None = None) -> Any:
        """Run an `airflow` command with JSON output, which comes after warnings."""
        arguments = ("-m", "airflow", *command, "--output", "json")
        return json.loads(self.succeed("python", *arguments, at=at, more=more).splitlines()[-1])


def create(folder: Path, variables: Variables | None = None, *more: str) -> Environment:
    """A new, empty environment with pip in it; `more` options may say without."""
    subprocess.run([sys.executable, "-m", "venv", *more, str(folder)], check=True)
    return Environment(folder, variables or {})


def install_pinned(environment: Environment, wheel: Path, requirements: Path) -> None:
    """Install the pinned requirements, then the wheel alone; `pip check` accepts the result."""
    here = environment.folder
    environment.succeed("python", *_PIP, "install", "--require-hashes", "-r", requirements, at=here)
    environment.succeed("python", *_PIP, "install", "--no-deps", "--no-index", wheel, at=here)
    environment.succeed("python", *_PIP, "check", at=here)


def install_beside(environment: Environment, wheel: Path, packages: Path) -> None:
    """Install the wheel; everything else comes from `packages`, a folder of another environment.

    Python does not process the .pth files in that folder, so an editable install of the checkout
    there has no effect here.
    """
    (environment.site_packages / "others.pth").write_text(f"{packages}\n")
    # The pip of these tests: to give the environment its own takes 4 s of a core.
    pip = [sys.executable, *_PIP, "--python", str(environment.python)]
    install = ("install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    subprocess.run([*pip, *install], check=True, env=environment.environ())
