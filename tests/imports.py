"""What a fresh interpreter imports, which this one no longer knows."""

from __future__ import annotations

import subprocess
import sys


def imported_by(*modules: str, code: str = "") -> str:
    """The names of all modules there are after importing `modules` (or after `code`), or how that
    ended."""
    script = f"{code or 'import ' + ', '.join(modules)}; import sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    return result.stdout + result.stderr
