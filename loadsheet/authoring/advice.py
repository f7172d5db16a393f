"""Suggests how to load a table, from what the source's catalogs know about it.

`advise` decides, without a query. `suggest` reads the catalogs and tries each decision as a run
would. Where the catalogs cannot know (are rows ever updated?) the careful way is suggested, and its
reason names the other one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from loadsheet.errors import InputError, Refused
from loadsheet.redact import on_one_line
from loadsheet.source.table import SourceTable
from loadsheet.spec.edit import fit_to_defaults
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql.extensions import is_known
from loadsheet.sql.types import TIME_TYPES, has_order, without_modifier
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.authoring.choose import Choice
    from loadsheet.postgres import Session
    from loadsheet.source.discovery import Facts, SourceRelation

_BEFORE = r"(?:(?:row|record|sys|system|last|date|time|ts|dt)_?)*"
_AFTER = r"(?:_?(?:at|on|ts|dt|time|date|datetime|timestamp|stamp|utc|tz))*"
_UPDATED = re.compile(
    rf"{_BEFORE}(?:updated?|modified|modification|changed?|upd|mod|write){_AFTER}"
    r"|mtime|systemmodstamp"
)
_CREATED = re.compile(
    rf"{_BEFORE}(?:created?|creation|inserted|ingested|recorded|logged){_AFTER}|ctime"
)
# Names of tables whose rows are written once. Statistics alone are not enough: they show no updates
# for any table that was just restored.
_LOGS = frozenset(
    "event events log logs logged audit audits history journal journals click clicks impression"
    " impressions pageviews reading readings measurement measurements".split()
)
# Anchored at the end of the name: `password_changed_at` and `token_count` are no secrets.
_SECRET = re.compile(
    r"""
    (?:^|_)
    (?:
        password | passwd | pwd | passphrase | passcode | secret | secrets
        | ssn | cvv | cvc | cvv2 | iban | otp | totp
        | social_security (?:_(?:no|number|nr))?
        | (?:credit_?)? card_? (?:no|nr|num|number)
        | cc_? (?:no|nr|num|number)
        | (?:api|private|secret|access|encryption|signing) _?key
        | (?:pass(?:word)?|pin) _? (?:hash|salt|code)
        | (?:passport|national_id|tax) _? (?:no|nr|number)
        | (?:bank_)? account_? number
    )
    (?:_(?:hash|hashed|salt|enc|encrypted))? $
    | (?:^|_) (?:token|credentials?) (?:_(?:hash|hashed|enc|encrypted))? $
    | ^ (?:pin|passwordhash) $
    """,
    re.VERBOSE,
)
_KINDS = {TIME_TYPES[0]: "timestamptz", TIME_TYPES[1]: "timestamp", "date": "a date"}
_NUMBERS = ("smallint", "integer", "bigint")
# Read in some 50 ms, and a whole copy also loses what was deleted.
_FEW_ROWS = 10_000
_DELETES = (
    "rows that are deleted from the source stay in merged tables. To remove them, add"
    " `deletes: hard` (or soft, report) to a table or to `defaults`"
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """How to load one table, and why."""

    key: tuple[str, ...]
    """The columns that identify a row; empty where none do."""
    declared: bool
    """The key is the declared primary key, so the pipeline file need not name it."""
    cursor: str | None
    """The column that tells what changed; None where the table is copied whole."""
    append: bool
    nulls: bool
    """The cursor can be NULL."""
    secrets: tuple[str, ...]
    """Columns that are left out, because their names say that they hold secrets."""
    why: str
    """The reason for the cursor, or for having none."""

    @property
    def entry(self) -> dict[str, Any]:
        """The table's keys in the pipeline file, in the short form where there is one."""
        entry: dict[str, Any] = {}
        if len(self.key) == 1 and not self.declared:
            entry["primary_key"] = self.key[0]
        elif self.key and not self.declared:
            entry["primary_key"] = list(self.key)
        if self.cursor and self.nulls:
            entry["incremental"] = {"cursor": self.cursor, "nulls": "include"}
        elif self.cursor:
            entry["incremental"] = self.cursor
        if self.append:
            entry["mode"] = "append"
        if self.secrets:
            entry["columns"] = {"exclude": list(self.secrets)}
        return entry

    @property
    def mode(self) -> str:
        """How its rows are loaded: append, merge or replace."""
        if self.append:
            return "append"
        if self.cursor:
            return "merge"
        return "replace"


def advise(table: SourceTable, facts: Facts) -> Advice:
    """How to load `table`, whose statistics and indexes are `facts`."""
    key = table.key or _unique_columns(table, facts)
    cursor, append, why = _cursor(table, facts, key)
    secrets = []
    for column in table.columns:
        # A key or a cursor cannot be left out, however it is named.
        if looks_secret(column.name) and column.name not in (*key, cursor):
            secrets.append(column.name)
    return Advice(
        key=key,
        declared=bool(table.key),
        cursor=cursor,
        append=append,
        nulls=cursor is not None and cursor not in table.not_null,
        secrets=tuple(secrets),
        why=why,
    )


def copy_whole(advice: Advice, reason: str) -> Advice:
    """The advice without its cursor, for `reason`: the table is copied whole."""
    return replace(advice, cursor=None, append=False, nulls=False, why=reason)


def looks_secret(name: str) -> bool:
    """Whether a column of this name probably holds what does not belong in a warehouse."""
    return bool(_SECRET.search(_plain(name)))


def _unique_columns(table: SourceTable, facts: Facts) -> tuple[str, ...]:
    """The first unique index whose columns can serve as a key; empty where there is none."""
    for columns in facts.uniques:
        if set(columns) <= table.not_null and all(_fits_key(table, name) for name in columns):
            return tuple(columns)
    return ()


def _fits_key(table: SourceTable, name: str) -> bool:
    """Whether equal values of the column are also equal in the warehouse, and can be ordered."""
    nature = table.natures[name]
    # A nondeterministic collation takes different values for equal.
    if nature.loose:
        return False
    # In a key, a type of an extension is text in the warehouse.
    if is_known(nature.extension, nature.element):
        return False
    if nature.is_enum:
        return True
    return has_order(nature.element) and not table.column(name).cast


def _cursor(table: SourceTable, facts: Facts, key: tuple[str, ...]) -> tuple[str | None, bool, str]:
    """The cursor or None, whether to append, and why."""
    if table.beneath.why_late:
        return None, False, table.beneath.why_late
    updated = _best_time(table, facts, _UPDATED)
    if updated and key:
        return updated, False, _because(table, facts, updated)
    if updated:
        return None, False, f"no key to merge by; with one, {updated} shows what changed"
    growing = _growing(table, facts)
    if growing is None:
        return None, False, "no column shows what changed"
    is_log = not _LOGS.isdisjoint(_plain(table.relation.name).split("_"))
    if is_log and not facts.changes:
        why = f"{_because(table, facts, growing)}; a log by its name, and no row was ever changed"
        return growing, True, why
    way = f"{{incremental: {growing}, mode: append}}"
    return None, False, f"no column shows updates; if rows are never updated: {way}"


def _best_time(table: SourceTable, facts: Facts, names: re.Pattern[str]) -> str | None:
    """The time column with such a name that makes the best cursor; None where there is none."""
    best: tuple[Any, ...] = ()
    for place, column in enumerate(table.columns):
        name = column.name
        kind = without_modifier(column.type)
        if kind not in TIME_TYPES or column.cast or not names.fullmatch(_plain(name)):
            continue
        nulls, correlation = facts.stats.get(name, (0.0, 0.0))
        # First what an increment costs: rows with NULL are read every time, a time without a zone
        # needs care, and without an index each run scans the table. Then statistics, then order.
        rank = (
            name in table.not_null,
            -TIME_TYPES.index(kind),
            name in facts.indexed,
            -nulls,
            correlation,
            -place,
            name,
        )
        best = max(best, rank)
    if not best:
        return None
    return str(best[-1])


def _growing(table: SourceTable, facts: Facts) -> str | None:
    """A column whose values rise with every row inserted; None where there is none."""
    for column in table.columns:
        # A sequence hands out rising numbers. Without one, a number may be anything.
        if column.name in facts.drawn and column.type in _NUMBERS and column.name in table.not_null:
            return column.name
    created = _best_time(table, facts, _CREATED)
    if created in table.not_null:
        return created
    return None


def _because(table: SourceTable, facts: Facts, name: str) -> str:
    """What makes the column `name` the cursor, and what it costs."""
    kind = without_modifier(table.column(name).type)
    parts = [_KINDS.get(kind, kind)]
    if name in facts.drawn:
        parts = ["drawn from a sequence"]
    parts.append("not null" if name in table.not_null else "rows with NULL are read on every run")
    parts.append("indexed" if name in facts.indexed else "no index: each run scans the table")
    if kind == "date":
        parts.append("a day is read when it is over")
    return f"{name} is {', '.join(parts)}"


def _plain(name: str) -> str:
    """The name in lower case with underscores: `updatedAt`, `Updated-At` and `updated at` are all
    `updated_at`."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).lower()


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A table's entry for the pipeline file, and the advice that it follows."""

    found: SourceRelation
    advice: Advice
    entry: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The suggestion for `--json`."""
        return {
            "table": self.found.name,
            "entry": self.entry,
            "mode": self.advice.mode,
            "key": self.advice.key,
            "cursor": self.advice.cursor,
            "excluded": self.advice.secrets,
            "rows": self.found.rows,
            "why": self.advice.why,
        }


def suggest(
    session: Session, schema: str, choice: Choice, defaults: Mapping[str, Any]
) -> dict[str, Suggestion]:
    """Each chosen table's suggestion, by name.

    A table that cannot be loaded is moved to the choice's `left_out`. Raises InputError when the
    user named such a table.
    """
    from loadsheet.source.discovery import facts

    facts_by_oid = facts(session, [relation.oid for relation in choice.chosen.values()])
    suggestions: dict[str, Suggestion] = {}
    problems: list[str] = []
    for name, relation in choice.chosen.items():
        try:
            if relation.grant:
                raise Refused(f"this role may not read {schema}.{name}: {relation.grant}")
            table, advice = _tried(session, schema, name, facts_by_oid[relation.oid], choice)
        except Refused as error:
            choice.left_out[name] = str(error)
            if name in choice.named:
                problems.append(str(error))
            continue
        if advice.mode == "merge" and 0 < relation.rows <= _FEW_ROWS:
            few = (
                f"about {counted(relation.rows, 'row')}, which is few, and deleted ones go with it;"
                f" if there will be many: {{incremental: {advice.cursor}}}"
            )
            advice = copy_whole(advice, few)
        columns = [column.name for column in table.columns]
        entry = fit_to_defaults(advice.entry, advice.key, columns, defaults)
        suggestions[name] = Suggestion(found=relation, advice=advice, entry=entry)
    if problems:
        raise InputError("\n  ".join([*problems, "nothing was written"]))
    return suggestions


def _tried(
    session: Session, schema: str, name: str, facts: Facts, choice: Choice
) -> tuple[SourceTable, Advice]:
    """The table and the advice for it, tried as a run would: the catalogs may rule out a key or a
    cursor that looks right. Raises Refused when the table cannot be loaded at all."""
    from loadsheet.source.catalog import describe
    from loadsheet.source.origins import refuse_shifted
    from loadsheet.source.selection import refuse_unknown_zone
    from loadsheet.source.window import refuse_unseen_writers

    table = describe(session, schema, Table(name=name))
    advice = advise(table, facts)
    if advice.cursor is None:
        return table, advice
    entry = Table(
        name=name,
        primary_key=() if advice.declared else advice.key,
        incremental=Incremental(cursor=advice.cursor),
        mode="append" if advice.append else None,
    )
    try:
        found = describe(session, schema, entry)
        assert entry.incremental
        refuse_unknown_zone(session, found, entry.incremental)
        refuse_shifted(session, found, entry.incremental)
    except Refused as error:
        return table, copy_whole(advice, str(error))
    try:
        refuse_unseen_writers(session, found, entry.incremental)
    except Refused as error:
        # A missing right is no reason against the cursor: it is granted once, for all tables.
        text = str(error).removeprefix(f"{table.relation}: ")
        if text not in choice.needed:
            choice.needed.append(text)
    return table, advice


def print_suggestions(
    suggestions: Collection[Suggestion], choice: Choice, defaults: Mapping[str, Any]
) -> None:
    """Print each new line as it is written into the file, its reason below it, and what was left
    out. `defaults` are those of the file."""
    from loadsheet.spec.edit import table_yaml

    for suggestion in suggestions:
        advice = suggestion.advice
        reasons = [f"{advice.mode}: {advice.why}"]
        if advice.key and not advice.declared:
            columns = ", ".join(advice.key)
            reasons.append(
                f"key: {columns} is unique and never NULL, though not declared as the primary key"
            )
        if advice.secrets:
            names = ", ".join(advice.secrets)
            reasons.append(f"left out, because their names suggest secrets: {names}")
        typer.echo(f"  {table_yaml(suggestion.found.name, suggestion.entry)}")
        for line in reasons:
            typer.echo(f"      {on_one_line(line)}")
    if choice.present:
        typer.echo(f"already there: {_names(choice.present)}")
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in choice.left_out.items():
        names_by_reason.setdefault(reason, []).append(name)
    for reason, left_out in names_by_reason.items():
        typer.echo(f"left out: {_names(left_out)} ({on_one_line(reason)})")
    if any(one.advice.mode == "merge" for one in suggestions) and "deletes" not in defaults:
        typer.echo(_DELETES)
    for text in choice.needed:
        typer.echo(f"before increments can be read: {text}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(on_one_line, names))
