"""Compares a mart with its own SELECT, in one snapshot of the warehouse.

inputs and mart: lock, snapshot
is the mart due?                              then it may differ
digests of the mart and of the SELECT         equal buckets end here
rows of the buckets that differ               missing, extra or different
must the SELECT return the same rows again?   if not, a difference proves nothing
"""

from __future__ import annotations

import psycopg

from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import Query, Side, Value
from loadsheet.comparison.snapshot import locked_snapshot, refuse_without_ledger
from loadsheet.engine.transform import relations_read
from loadsheet.errors import Refused
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.params import Param, split_params
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import tables_read
from loadsheet.sql.text import Relation
from loadsheet.sql.tokens import tokenize
from loadsheet.sql.types import widens
from loadsheet.verify.look import Look
from loadsheet.verify.models import KINDS, SinceUnfit, TableVerdict
from loadsheet.verify.repeatable import why_not_repeatable
from loadsheet.verify.rows import count_rows
from loadsheet.warehouse import mart, search_path, tables
from loadsheet.warehouse.externals import external_inputs
from loadsheet.warehouse.mart import BuildDecision
from loadsheet.warehouse.parameters import bind_parameters
from loadsheet.wording import counted

COMPARED = ("table", "merge")
"""How a mart is materialized that can be compared."""
_WHY_NOT = {
    "view": "a view stores no rows: it shows what its SELECT returns",
    "script": "a script is not compared: nothing shows which rows it should have written",
}
# Those that a build explains as the SQL's own.
_FAILURES_OF_A_SELECT = (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError)
# Each run gives these another value.
_OF_A_RUN = {"run_id", "interval_start", "interval_end"}
_IS_WRITTEN_BY_US = """
SELECT EXISTS (SELECT FROM loadsheet.load WHERE target = %(target)s)
    OR EXISTS (SELECT FROM loadsheet.transform_run WHERE target = %(target)s)
"""
_LAST_BUILD = """
SELECT max(run_no) FROM loadsheet.transform_run
WHERE pipeline = %s AND transform = %s AND target = %s
"""


def verify_mart(
    pipeline: Pipeline, transform: Transform, look: Look, warehouse: PinnedSession
) -> TableVerdict:
    """Compare the mart's table with the rows that its SELECT returns in full.

    Reads only, in one snapshot. What cannot be compared is a verdict, too. Raises psycopg errors.
    """
    target = Relation(pipeline.warehouse.mart_schema, transform.name)
    verdict = TableVerdict(
        kind="transform",
        table=transform.name,
        target=str(target),
        is_whole=look.is_whole,
        part=look.part,
    )
    try:
        _refuse_uncomparable(transform, look)
        refuse_without_ledger(warehouse)
        is_gone = tables.kind(warehouse, target) is None
        if is_gone and _last_build(pipeline, transform, warehouse):
            verdict.lose_target()
            return verdict
        inputs = relations_read(pipeline, transform)
        inputs += external_inputs(warehouse, pipeline, transform)
        # The inputs first, as a build takes its locks: the two never wait for each other.
        in_order = [*sorted(inputs, key=str), target]
        with locked_snapshot(warehouse, in_order) as verdict.at:
            decision = mart.decide_build(warehouse, pipeline, transform, target, inputs, False)
            if decision and decision.reason in ("first run", "its SQL changed"):
                raise Refused(
                    f"{target}: the next run builds it in full ({decision.reason}): run the"
                    " pipeline first"
                )
            verdict.through = _last_build(pipeline, transform, warehouse)
            search_path.use(warehouse, pipeline)
            _compare(verdict, transform, look, target, decision, warehouse)
            if verdict.differences:
                _judge(verdict, transform, decision, inputs, warehouse)
            elif verdict.left_out:
                verdict.state = "not proven"
                verdict.why = (
                    "a column has another type than in its SELECT, so it is not compared: alter its"
                    " type in the mart, or cast it in the SELECT"
                )
    except Refused as error:
        verdict.state = "not compared"
        verdict.why = str(error)
        verdict.takes_since = not isinstance(error, SinceUnfit)
    except psycopg.errors.ReadOnlySqlTransaction as error:
        verdict.state = "not compared"
        verdict.why = f"its SELECT writes, which a comparison does not: {message(error)}"
    except _FAILURES_OF_A_SELECT as error:
        verdict.state = "not compared"
        verdict.why = f"its SELECT fails: {message(error)} (SQLSTATE {error.sqlstate})"
    return verdict


def _last_build(pipeline: Pipeline, transform: Transform, warehouse: Session) -> int:
    """The number of the mart's last build; 0: it was never built."""
    target = Relation(pipeline.warehouse.mart_schema, transform.name)
    names = (pipeline.name, transform.name, str(target))
    row = warehouse.execute(_LAST_BUILD, names).fetchone()
    return (row and row[0]) or 0


def _refuse_uncomparable(transform: Transform, look: Look) -> None:
    if transform.materialized not in COMPARED:
        raise Refused(_WHY_NOT[transform.materialized])
    if look.since is not None:
        raise SinceUnfit("a mart has no cursor, so --since cannot choose its rows")
    for piece in split_params(transform.sql):
        if isinstance(piece, Param) and piece.name in _OF_A_RUN:
            raise Refused(f"its SELECT reads :{piece.name}, which is another in each run")


def _compare(
    verdict: TableVerdict,
    transform: Transform,
    look: Look,
    target: Relation,
    decision: BuildDecision | None,
    warehouse: PinnedSession,
) -> None:
    bound = bind_parameters(transform.sql, RunRequest(run_id=""), 0).as_string(warehouse)
    select = Query(_without_semicolon(bound))
    pairs = []
    # A SELECT shows of a domain only the type below it.
    domains = tables.domains_of(warehouse, target)
    in_mart = tables.columns_of(warehouse, target) | domains
    for name, type_name in _columns_of(warehouse, select).items():
        mine = in_mart.get(name, "missing")
        if name not in in_mart and name not in transform.unique_key:
            pairs.append((Value(name, type_name), Value(name, type_name, is_lost=True)))
        elif mine == type_name or widens(type_name, mine):
            # As a build casts what it writes into a column that another user has widened.
            theirs = Value(name, mine, is_cast=mine != type_name)
            pairs.append((theirs, Value(name, mine, is_cast=name in domains)))
        else:
            verdict.left_out.append(f"{name}: is {mine} in the mart, {type_name} in its SELECT")
    names = [value.name for value, _ in pairs]
    if not names or not set(transform.unique_key) <= set(names):
        why = "; ".join(verdict.left_out) or "it has no columns"
        raise Refused(f"{target} cannot be compared with its SELECT: {why}")
    places = tuple(names.index(name) for name in transform.unique_key)
    sides = Sides(
        source_session=warehouse,
        source=Side(select, tuple(theirs for theirs, _ in pairs), places, "server"),
        warehouse_session=warehouse,
        target=Side(target, tuple(ours for _, ours in pairs), places, "server"),
        settled="TRUE",
    )
    # A mart that is due differs, most likely: its SELECT need not run for totals, too.
    compared = compare.by_buckets if decision else compare.totals
    found = compared(sides, look.buckets)
    verdict.source_rows = found.source_rows
    verdict.target_rows = found.target_rows
    if found.buckets:
        count_rows(verdict, sides, found.buckets)


def _judge(
    verdict: TableVerdict,
    transform: Transform,
    decision: BuildDecision | None,
    inputs: list[Relation],
    warehouse: Session,
) -> None:
    """Whether the differences are certain: the SELECT must return the rows of the last build."""
    doubt = ""
    if decision:
        doubt = f"the mart is due ({decision.reason}): run the pipeline, then verify again"
    else:
        doubt = _why_other_rows(transform, inputs, warehouse)
    if not doubt:
        verdict.state = "differs"
        return
    verdict.state = "not proven"
    verdict.unproven = verdict.differences
    verdict.why = f"{counted(verdict.unproven, 'row differs', 'rows differ')}, but {doubt}"
    for kind in KINDS:
        verdict.counts[kind] = 0
        verdict.named[kind].clear()


def _why_other_rows(transform: Transform, inputs: list[Relation], warehouse: Session) -> str:
    """Why the SELECT may return other rows than it did for the last build, although the ledger
    knows of no change; empty if it must return the same."""
    [statement] = parse(transform.sql)
    for read in tables_read([statement]):
        if read.schema in ("pg_catalog", "information_schema"):
            return f"its SELECT reads {read.schema}.{read.name}"
    columns: dict[str, list[str]] = {}
    for relation in inputs:
        if tables.kind(warehouse, relation) not in ("r", "p"):
            return f"its SELECT reads {relation}, which is no table"
        row = warehouse.execute(_IS_WRITTEN_BY_US, {"target": str(relation)}).fetchone()
        if row != (True,):
            return f"its SELECT reads {relation}, and the ledger does not know when that changes"
        for name, type_name in tables.columns_of(warehouse, relation).items():
            columns.setdefault(name, []).append(type_name)
    why = why_not_repeatable(statement, columns)
    return f"its SELECT may return other rows each time: {why}" if why else ""


def _without_semicolon(select: str) -> str:
    """The SELECT as it may stand in parentheses."""
    for token in reversed(tokenize(select)):
        if token.text == ";" and token.kind == "sign":
            return select[: token.start]
        if token.text:
            break
    return select


def _columns_of(session: PinnedSession, select: Query) -> dict[str, str]:
    """The SELECT's columns and their types, as a table made from it has them."""
    columns: dict[str, str] = {}
    result = session.execute(f"SELECT * FROM {select.sql} LIMIT 0").pgresult
    assert result
    for number in range(result.nfields):
        name = (result.fname(number) or b"").decode()
        type_of = (result.ftype(number), result.fmod(number))
        row = session.execute("SELECT format_type(%s::oid, %s)", type_of).fetchone()
        columns[name] = row[0] if row else ""
    return columns
