"""Every failure a user can meet, in one tree. A message says what happened, where, and what to do.

LoadsheetError
├── InputError            wrong files or arguments: exit code 2, nothing was changed
│   ├── SpecError         a pipeline file has problems; `.problems` holds them with their positions
│   └── ConnectionMissing an undefined connection id, or a `${VAR}` without a value
└── WorkError             the work failed: exit code 1, the state is as before
    ├── Overtaken         the table changed under the extraction (a retry succeeds)
    │   └── Fenced        another run extracted or loaded it meanwhile (the step extracts again)
    ├── Superseded        a newer extraction owns the table (the step loads that one, or extracts)
    │   └── TargetLost    the target was dropped or changed since its rows were read: extract again
    ├── HeldBack          open source transactions may still write (a retry may succeed)
    ├── SourceChanged     the watermark comes from another server, history or table
    ├── TimedOut          the step took longer than tasks.timeout (a retry may succeed)
    ├── Unavailable       a server is down, busy, full or locked (a retry may succeed)
    ├── Unreadable        a server's answer is not as PostgreSQL sends it
    ├── Corrupt           the lake's objects differ from their manifest; nothing was committed
    ├── TablesFailed      some of the tables of a task failed; the others are done
    ├── Differs           tables are not what their source holds: the step `verify` tells
    └── Refused           data, catalogs or a server rule the work out; a retry cannot help
        └── CheckFailed   rows do not pass a check that the pipeline file asks for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadsheet.checks import Check, Checked
    from loadsheet.problem import Problem


class LoadsheetError(Exception):
    """Base of all expected failures. `retryable` says whether the same call may succeed later.

    An error that leaves a step carries where it happened: `pipeline`, `step`, `run_id`, and the
    server's `code` where there is one (`SQLSTATE 55P03`, `S3 NoSuchBucket`, `HTTP 503`, `ENOSPC`).
    Its message names them too: it begins with `place`.
    """

    retryable = False
    pipeline: str = ""
    step: str = ""
    run_id: str = ""
    code: str = ""
    place: str = ""
    check: str = ""
    """What rows do not pass: a key of the pipeline file, or a constraint of the warehouse. Empty
    for every other failure."""
    rows: int | None = None
    """How many rows do not pass the check, where that is known."""
    excerpt: str = ""
    """The line of a SQL file with a caret; an error that leaves a step ends with it."""

    @property
    def reason(self) -> str:
        """The message without the place and the excerpt."""
        return str(self).removeprefix(self.place).removesuffix(f"\n{self.excerpt}")


class InputError(LoadsheetError):
    """Wrong input from the user. It is shown without a traceback; the exit code is 2."""


class SpecError(InputError):
    """A pipeline file has problems. Fix every line shown and run `loadsheet check` again."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConnectionMissing(InputError):
    """Define the connection in `AIRFLOW_CONN_<ID>` or `connections/connections.yml`, or set the
    variable it names."""


class WorkError(LoadsheetError):
    """The work failed, and the state is as before the step. It is shown without a traceback; the
    exit code is 1."""


class Overtaken(WorkError):
    """The table changed during this extraction. A retry starts from the new state."""

    retryable = True


class Fenced(Overtaken):
    """Another run extracted or loaded the table during this extraction."""


class Unavailable(WorkError):
    """A server is down, busy, full or locked by another session. The same call may succeed
    later."""

    retryable = True


class Unreadable(WorkError):
    """A server's answer is not what PostgreSQL answers to the question. The message names the
    server. A retry seldom helps: the connection leads elsewhere, or something is in between."""


class Superseded(WorkError):
    """A newer extraction owns the table. Nothing was written. The load step loads that one if it is
    of the same run, and extracts again if not."""


class TargetLost(Superseded):
    """The target was dropped or changed since its rows were read, and the load holds only some of
    them. Nothing was written. Run the extract step again, then its load."""


class HeldBack(WorkError):
    """Transactions still open on the source may write into the requested interval. Retry when the
    named session has ended."""

    retryable = True


class SourceChanged(WorkError):
    """The source is not the server, history or table that the watermark came from: it was
    restored, failed over or recreated. Run a full refresh, or accept the new source."""


class TimedOut(WorkError):
    """The step took longer than its `tasks.timeout` and was stopped. Uncommitted work is rolled
    back; a retry may succeed."""

    retryable = True


class Corrupt(WorkError):
    """The lake's objects differ from their manifest. Nothing was committed; run the extract step
    again."""


class TablesFailed(WorkError):
    """Some tables of a batch have failed, and the others are done. The message names them with
    their reasons; `tables` holds their names. A retry does only what is not done."""

    def __init__(self, message: str, tables: Sequence[str], retryable: bool):
        self.tables = tuple(tables)
        self.retryable = retryable
        super().__init__(message)


class Differs(WorkError):
    """Rows of staging tables are missing, extra or different. The message names them by their
    keys; `verdicts` holds how many tables and marts have which verdict, `checked` each of them. A
    retry cannot help."""

    def __init__(
        self,
        message: str,
        verdicts: Mapping[str, int] | None = None,
        checked: Sequence[Checked] = (),
    ):
        self.verdicts = verdicts or {}
        self.checked = tuple(checked)
        super().__init__(message)


class Refused(WorkError):
    """Data or catalogs contradict the pipeline file, or a server refuses permanently. A retry
    cannot help.

    The message names the table, and the column or the server's code.
    """


class CheckFailed(Refused):
    """Rows do not pass a check that the pipeline file asks for by the key `check`: `max_shrink`,
    `unique_key`. Nothing was written. Correct the rows, or change the key. `result` is what lineage
    tells of it, or that of the cause."""

    def __init__(
        self, message: str, check: str, rows: int | None = None, result: Check | None = None
    ):
        self.check = check
        self.rows = rows
        self.result = result
        super().__init__(message)
