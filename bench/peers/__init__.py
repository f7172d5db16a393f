"""The others who carry tables: a script each, run by the python of an environment of its own.

`python bench/peers/<name>.py JOB` does the job in the file JOB (see `bench.peers.check` for its
keys).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ("sling", "dlt_sql", "ingestr", "dataframe")


def environment(name: str) -> Path:
    """The python of `.venv-bench-<name>`, which is made when it is missing or older than its
    requirements.

    Raises subprocess.CalledProcessError when pip cannot install them.
    """
    home, wanted = ROOT / f".venv-bench-{name}", HERE / "requirements" / f"{name}.txt"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists() or ready.stat().st_mtime < wanted.stat().st_mtime:
        print(f"setting up {home.name} from {wanted.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
        ]
        subprocess.run([*pip, "-r", str(wanted)], check=True)
        ready.touch()
    return python


def command(name: str, job: Path) -> list[str]:
    """What does the job in the file `job`."""
    return [str(environment(name)), str(HERE / f"{name}.py"), str(job)]
