"""Every failure a user can meet, in one tree. A message says what happened, where, and what to do.

LoadsheetError
├── InputError            the user's files or arguments are wrong: exit code 2, nothing was touched
│   ├── SpecError         a pipeline file has problems; `.problems` holds them with their positions
│   └── ConnectionMissing a connection id is not defined, or a `${VAR}` has no value
└── WorkError             the work failed: exit code 1, the state is as before
    ├── Overtaken         another run extracted or loaded the table meanwhile; a retry succeeds
    ├── Superseded        a newer extraction owns the table; the extract step must run again
    ├── HeldBack          open transactions could still write into the interval; retry later
    ├── SourceChanged     the source or its table is another one: the watermark may mean nothing
    ├── TimedOut          the step took longer than tasks.timeout; a retry may succeed
    ├── Unavailable       a server is away, busy, full or locked by another session; retry later
    ├── Corrupt           the lake's bytes are not what the manifest promised
    └── Refused           data, catalogs or a server refuse permanently; a retry cannot help
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadsheet.problem import Problem


class LoadsheetError(Exception):
    """Base of all expected failures. `retryable` says whether the same call may succeed later.

    One that leaves a step knows where it happened, and its text says so: `pipeline`, `step`,
    `run_id`, and the server's `code` where there is one (`SQLSTATE 55P03`, `S3 NoSuchBucket`, `HTTP
    503`, `ENOSPC`).
    """

    retryable = False
    pipeline: str = ""
    step: str = ""
    run_id: str = ""
    code: str = ""


class InputError(LoadsheetError):
    """Wrong input from the user; shown without a traceback, exit code 2."""


class SpecError(InputError):
    """A pipeline file has problems. Fix every line shown and run `loadsheet check` again."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConnectionMissing(InputError):
    """Define the connection in `AIRFLOW_CONN_<ID>` or `connections/connections.yml`, or set the
    variable it names."""


class WorkError(LoadsheetError):
    """The work failed; shown without a traceback, exit code 1. The state is as before the step."""


class Overtaken(WorkError):
    """Another run extracted or loaded the table while this extraction looked at it. A retry looks
    again."""

    retryable = True


class Unavailable(WorkError):
    """A server is away, busy, full or locked by another session. The same call may succeed when
    that has passed."""

    retryable = True


class Superseded(WorkError):
    """A newer extraction owns the table, or its target is gone. The extract step must run again;
    its load follows."""


class HeldBack(WorkError):
    """Transactions still open on the source may write into the interval. Retry when the named
    session has ended."""

    retryable = True


class SourceChanged(WorkError):
    """The source is not the server, history or table that the watermark came from. Full refresh, or
    accept it."""


class TimedOut(WorkError):
    """The step took longer than its `tasks.timeout`. What was not committed is undone; a retry may
    succeed."""

    retryable = True


class Corrupt(WorkError):
    """The lake's objects differ from their manifest. Nothing was committed; re-run the extract
    step."""


class Refused(WorkError):
    """Data or catalogs contradict the spec, or a server says no for good; retrying cannot help.

    The message names the table, and the column or the server's code.
    """
