"""Whether a package that Loadsheet needs can be used here: a driver may be missing, be one for
another machine, or find no library of the system."""

from __future__ import annotations

from loadsheet.redact import summary

_OURS = "loadsheet"
_AGAIN = "install Loadsheet with its requirements once more (`pip install loadsheet`)"
# It is the only one that can do with a library of the system.
_NEXT = {
    "psycopg": "`pip install 'psycopg[binary]'`, or install libpq, PostgreSQL's client library",
}


def unusable(error: BaseException) -> str | None:
    """What to say about an `error` by which a package cannot be imported, and what to do; None
    for an error of another kind, and for a module of Loadsheet, which is a bug."""
    if not isinstance(error, ImportError):
        return None
    package = (error.name or _raised_in(error)).partition(".")[0]
    if package in ("", _OURS):
        return None
    todo = _NEXT.get(package, _AGAIN)
    return f"the package {package} cannot be used here: {summary(error)}. Next: {todo}"


def _raised_in(error: BaseException) -> str:
    """The module that has raised the error; empty where that is not known."""
    trace = error.__traceback__
    name = ""
    while trace:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return name
