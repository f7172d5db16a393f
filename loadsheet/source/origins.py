"""Where a cursor's values come from: from the clock or a sequence, or from an expression.

Hold-back and zones reason about the moment at which a row is written. They are right where the
cursor is a plain column, also below views, that takes its values from the clock or from a sequence
as they are. What an expression gives may lie anywhere: `now() - interval '1 hour'`,
`date_trunc('day', now())`, `at AT TIME ZONE 'Asia/Tokyo'`, `nextval('s') % 10`. So only what is
known here and in `defaults` is trusted, and all else needs a lookback. What a trigger gives shows
nowhere.

Numbers must also count in one way: seconds lie below milliseconds, and two sequences count
separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.source import defaults, nodes, zones
from loadsheet.source.holdback import way_on
from loadsheet.source.nodes import Node
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental
from loadsheet.sql.types import TIME_TYPES, without_modifier

# A row gets the default of the table that its INSERT names: a partition, or a table above it. A
# column without one gets its domain's. A view has defaults, too. An identity is shown as what it
# draws; that of a partition may be the identity of the table above it.
_COLUMNS = """
WITH RECURSIVE part (oid) AS (
    SELECT CAST(%(oid)s AS oid)
    UNION
    SELECT inhrelid FROM part JOIN pg_inherits ON inhparent = part.oid
), place (oid) AS (
    SELECT oid FROM part
    UNION
    SELECT inhparent FROM place JOIN pg_inherits ON inhrelid = place.oid
    JOIN pg_class ON pg_class.oid = inhparent AND relkind = 'p'
)
SELECT a.attrelid, a.attnum, EXISTS (SELECT FROM part WHERE part.oid = a.attrelid),
    a.attrelid::regclass::text, quote_ident(a.attname),
    format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attgenerated <> '' THEN adbin::text END,
    coalesce(
        pg_get_expr(adbin, adrelid),
        (SELECT format('nextval(%%L::regclass)', objid::regclass) FROM pg_depend
         WHERE classid = 'pg_class'::regclass AND deptype = 'i'
             AND refclassid = 'pg_class'::regclass
             AND refobjid = a.attrelid AND refobjsubid = a.attnum),
        pg_get_expr(typdefaultbin, 0)
    ),
    (SELECT ev_action::text FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
     WHERE ev_class = a.attrelid AND ev_type = '1' AND relkind = 'v')
FROM pg_attribute this JOIN pg_attribute a USING (attname) JOIN place ON place.oid = a.attrelid
JOIN pg_type ON pg_type.oid = a.atttypid
LEFT JOIN pg_attrdef ON adrelid = a.attrelid AND adnum = a.attnum
WHERE this.attrelid = %(oid)s AND this.attnum = %(attnum)s ORDER BY 1
"""
_RELATION, _SUBQUERY, _JOIN, _CTE, _GROUP = 0, 1, 2, 6, 9
"""What an entry of a query's range table can be."""
_GREATEST = 0
# Functions by their oid, which is the same in all versions.
_AT_TIME_ZONE = 1159
_FROM_TIMESTAMPTZ = {1178, 2027}
"""The casts of a timestamptz to a date and to a timestamp."""
_TIMESTAMP_TO_DATE = 2029
_WHOLE_NUMBERS = ("smallint", "integer", "bigint", "numeric")
_BETWEEN_NUMBERS = {313, 314, 480, 481, 714, 754, 1740, 1781, 1782}
_LONGEST = 80
"""How much of a default a message shows."""


@dataclass(frozen=True)
class Place:
    """A column that a cursor's values may come from: of a table, or of a view with defaults."""

    relation: int
    attnum: int


def places(
    session: psycopg.Connection[Any], table: SourceTable, spec: Incremental
) -> dict[Place, bool]:
    """The columns that the cursor's values come from, as far as they are known, and whether the
    rows of each are read: rows may also get a default of a table above the one that is read."""
    walk = _Walk(session, table, spec)
    with suppress(_Shifted):
        walk.cursor(table)
    return walk.places


def refuse_shifted(session: psycopg.Connection[Any], table: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the way on, unless the cursor is known to take its values from the clock
    or a sequence as they are, or a lookback makes up for what is not known."""
    if spec.makes_up_for_late_rows:
        return
    walk = _Walk(session, table, spec)
    try:
        walk.cursor(table)
    except _Shifted as found:
        raise Refused(f"{table.relation}: {found} {way_on(spec)}") from None


def refuse_late_rows(table: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the ways on, where a row may appear long after it was written, and
    no lookback makes up for that."""
    if not table.beneath.why_late or spec.makes_up_for_late_rows:
        return
    raise Refused(
        f"{table.relation}: {table.beneath.why_late}: read all rows in each run (remove"
        f" incremental), or load what it reads and build it with a transform {way_on(spec)}"
    )


class _Shifted(Exception):
    """Why a cursor's values are not known to be the time or the number of writing."""


@dataclass(frozen=True)
class _Wanted:
    """The type of the columns that an expression may name."""

    type: str
    with_its_digits: bool = True
    """Whether a time must be rounded as the cursor is."""

    def is_met(self, found: str) -> bool:
        """Whether a column of the type `found` is one."""
        wanted = without_modifier(self.type)
        if wanted in _WHOLE_NUMBERS:
            return without_modifier(found) in _WHOLE_NUMBERS
        if self.with_its_digits:
            return found == self.type
        return without_modifier(found) == wanted


@dataclass(frozen=True)
class _Scope:
    """A query of a view, and the query that it is a part of."""

    view: str
    query: Node
    outer: _Scope | None = None


class _Walk:
    """Follows a cursor down to the columns of tables. Raises _Shifted where it takes its values in
    a way that is not known."""

    def __init__(self, session: psycopg.Connection[Any], table: SourceTable, spec: Incremental):
        self._session = session
        self._spec = spec
        self._column = table.column(spec.cursor)
        self._is_time = without_modifier(self._column.type) in TIME_TYPES
        self._other_zone: str | None = None
        """The last zone that was found and that is not the one that is trusted."""
        self.places: dict[Place, bool] = {}
        self._counting: dict[str, str] = {}
        """The ways in which the numbers are counted, and a place of each, for messages."""

    def cursor(self, table: SourceTable) -> None:
        """The cursor of the table or view that is read."""
        try:
            self.column(table.oid, self._column.attnum, _Wanted(self._column.source_type))
        except RecursionError:
            raise self._shifted("the views that it is read from are nested too deeply") from None
        if len(self._counting) > 1 and not self._is_time:
            first, second = list(self._counting.values())[:2]
            raise self._shifted(f"{first} and {second}, which may count differently")

    def column(self, relation: int, attnum: int, wanted: _Wanted) -> None:
        """A column of a view, or of a table and its partitions."""
        values = {"oid": relation, "attnum": attnum}
        rows = self._session.execute(_COLUMNS, values).fetchall()
        if not rows:
            raise self._shifted("it is read from no column")
        for oid, number, is_read, *_ in rows:
            here = Place(oid, number)
            self.places[here] = is_read or self.places.get(here, False)
        seen = set()
        counting: dict[str, str] = {}
        for oid, _, _, name, column, type_name, generated, default, view in rows:
            # Thousands of partitions have the same default.
            how = (type_name, generated and (oid, generated), default, view)
            if how in seen:
                continue
            seen.add(how)
            place = f"{name}.{column}"
            if view is not None:
                self._output(_Scope(name, nodes.query_of(view)), attnum, wanted)
            elif not wanted.is_met(type_name):
                raise self._shifted(f"it is read from {place}, which is {type_name}")
            if generated is not None:
                expression = nodes.expression_of(generated)
                where = f"{place} is generated"
                self._expression(expression, wanted, where, partial(self._own, oid))
            elif default is not None:
                said = f"{place} has the default {_shortened(default)}"
                if not self._is_known(default, type_name):
                    raise self._shifted(said)
                counting.setdefault(defaults.counting(default, type_name), said)
            elif view is None:
                counting.setdefault("", f"{place} has no default")
        # The application gives what a default does not, as it may give any number in an INSERT.
        if len(counting) > 1:
            counting.pop("", None)
        self._counting |= counting

    def _own(self, relation: int, var: Node, wanted: _Wanted) -> None:
        """Another column of the same row."""
        self.column(relation, var.number("varattno"), wanted)

    def _is_known(self, default: str, type_name: str) -> bool:
        if type_name == self._column.source_type:
            type_name = self._column.type  # of a domain, the type below it
        kind = without_modifier(type_name)
        return defaults.is_known(default, type_name, lambda zone: self._is_in_zone(zone, kind))

    def _is_in_zone(self, zone: str, kind: str) -> bool:
        """Whether a time of `zone` is the time of writing for a column of the type `kind`."""
        if kind == zones.TIMESTAMPTZ:
            # A time without a zone is taken for one of the session's zone.
            return zones.is_utc(zone) and zones.are_all_utc(self._session)
        if zones.is_same(zone, self._spec.time_zone or zones.UTC):
            return True
        self._other_zone = zone
        return False

    def _output(self, scope: _Scope, number: int, wanted: _Wanted) -> None:
        """A column of a query."""
        where = f"view {scope.view} computes it"
        union = scope.query.node("setOperations")
        if union is not None:
            for place in _branches(union):
                self._source(scope, place, number, wanted)
            return
        for entry in scope.query.nodes("targetList"):
            expression = entry.node("expr")
            if entry.number("resno") == number and expression is not None:
                self._expression(expression, wanted, where, partial(self._var, scope))
                return
        raise self._shifted(where)

    def _var(self, scope: _Scope, var: Node, wanted: _Wanted) -> None:
        """A column that a query names."""
        scope = _outwards(scope, var.number("varlevelsup"))
        self._source(scope, var.number("varno"), var.number("varattno"), wanted)

    def _source(self, scope: _Scope, place: int, number: int, wanted: _Wanted) -> None:
        """A column of an entry of the query's FROM."""
        where = f"view {scope.view} computes it"
        entries = scope.query.nodes("rtable")
        if not (0 < place <= len(entries) and number > 0):
            raise self._shifted(where)
        entry = entries[place - 1]
        kind = entry.number("rtekind")
        if kind == _RELATION:
            self.column(entry.number("relid"), number, wanted)
            return
        if kind in (_JOIN, _GROUP):
            names = {_JOIN: "joinaliasvars", _GROUP: "groupexprs"}
            expressions = entry.nodes(names[kind])
            if number <= len(expressions):
                expression = expressions[number - 1]
                self._expression(expression, wanted, where, partial(self._var, scope))
                return
        query = entry.node("subquery")
        if kind == _SUBQUERY and query is not None:
            self._output(_Scope(scope.view, query, scope), number, wanted)
            return
        if kind == _CTE and entry["self_reference"] == "false":
            inner = _with_query(scope, entry)
            if inner is not None:
                self._output(inner, number, wanted)
                return
        raise self._shifted(where)

    def _expression(
        self, node: Node, wanted: _Wanted, where: str, var: Callable[[Node, _Wanted], None]
    ) -> None:
        """An expression over columns, which `var` follows."""
        if node.kind == "VAR":
            var(node, wanted)
            return
        is_highest = node.kind == "MINMAXEXPR" and node.number("op") == _GREATEST
        inner = node.nodes("args")
        if self._is_time and (node.kind == "COALESCEEXPR" or is_highest):
            # Whoever writes one of the columns stamps it, and a NULL is no older value.
            for argument in inner:
                self._expression(argument, wanted, where, var)
            return
        function = node.number("funcid") if node.kind == "FUNCEXPR" else 0
        if not inner:
            raise self._shifted(where)
        if function in _BETWEEN_NUMBERS:
            self._expression(inner[0], wanted, where, var)
            return
        from_type = self._type_of_argument(function, inner)
        if from_type is None:
            raise self._shifted(where)
        self._expression(inner[-1], _Wanted(from_type, with_its_digits=False), where, var)

    def _type_of_argument(self, function: int, arguments: list[Node]) -> str | None:
        """For a function that gives the day or the local time of a time, the type of that time;
        None for others."""
        if function == _TIMESTAMP_TO_DATE:
            return "timestamp without time zone"
        zone = ""
        if function in _FROM_TIMESTAMPTZ:
            zone = zones.UTC  # it takes our session's
        elif function == _AT_TIME_ZONE and arguments[0].kind == "CONST":
            zone = arguments[0].text
        if zone and self._is_in_zone(zone, without_modifier(self._column.type)):
            return zones.TIMESTAMPTZ
        return None

    def _shifted(self, why: str) -> _Shifted:
        cursor = self._spec.cursor
        what = "rises with each row that is written"
        if self._is_time:
            what = "is the time at which a row is written"
        text = f"it is not known that {cursor} {what}, because {why}: name a plain column"
        if self._other_zone is not None and zones.is_zoneless(without_modifier(self._column.type)):
            text += f", or its time zone (incremental.time_zone: {self._other_zone})"
        return _Shifted(text)


def _branches(union: Node) -> Iterator[int]:
    """The entries of FROM that a UNION (or EXCEPT, INTERSECT) is of."""
    for side in (union.node("larg"), union.node("rarg")):
        if side is not None and side.kind == "RANGETBLREF":
            yield side.number("rtindex")
        elif side is not None:
            yield from _branches(side)


def _outwards(scope: _Scope, levels: int) -> _Scope:
    """The query so many levels above this one."""
    while levels > 0 and scope.outer is not None:
        scope = scope.outer
        levels -= 1
    return scope


def _with_query(scope: _Scope, entry: Node) -> _Scope | None:
    """The query of WITH that an entry of FROM names."""
    holder = _outwards(scope, entry.number("ctelevelsup"))
    for common in holder.query.nodes("cteList"):
        query = common.node("ctequery")
        if common["ctename"] == entry["ctename"] and query is not None:
            return _Scope(scope.view, query, holder)
    return None


def _shortened(expression: str) -> str:
    if len(expression) <= _LONGEST:
        return expression
    return expression[:_LONGEST] + "..."
