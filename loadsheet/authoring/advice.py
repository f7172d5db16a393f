"""Suggests how to load a table, from what the source's catalogs know about it.

Pure: no question to a server here. Where the catalog cannot know (are rows ever updated?) the
careful way is advised, and the reason names the other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from loadsheet.errors import InputError, Refused
from loadsheet.redact import on_one_line
from loadsheet.source.discovery import Facts
from loadsheet.source.table import SourceTable
from loadsheet.spec.edit import fit_to_defaults
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql.types import TIME_TYPES, has_order, without_modifier

if TYPE_CHECKING:
    from loadsheet.authoring.choose import Choice
    from loadsheet.postgres import Session
    from loadsheet.source.discovery import Facts, Found

_BEFORE = r"(?:(?:row|record|sys|system|last|date|time|ts|dt)_?)*"
_AFTER = r"(?:_?(?:at|on|ts|dt|time|date|datetime|timestamp|stamp|utc|tz))*"
_UPDATED = re.compile(
    rf"{_BEFORE}(?:updated?|modified|modification|changed?|upd|mod|write){_AFTER}|mtime|systemmodstamp"
)
_CREATED = re.compile(
    rf"{_BEFORE}(?:created?|creation|inserted|ingested|recorded|logged){_AFTER}|ctime"
)
# Tables whose rows are written once, by their names: statistics alone would say so of any table
# just restored.
_LOGS = frozenset(
    "event events log logs logged audit audits history journal journals click clicks impression"
    " impressions pageviews reading readings measurement measurements".split()
)
_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|passphrase|passcode|secret|secrets|ssn|cvv|cvc|cvv2|iban|otp|totp|"
    r"social_security(?:_(?:no|number|nr))?|(?:credit_?)?card_?(?:no|nr|num|number)|cc_?(?:no|nr|num|number)|"
    r"(?:api|private|secret|access|encryption|signing)_?key|(?:pass(?:word)?|pin)_?(?:hash|salt|code)|"
    r"(?:passport|national_id|tax)_?(?:no|nr|number)|(?:bank_)?account_?number)(?:_(?:hash|hashed|salt|enc|encrypted))?$"
    r"|(?:^|_)(?:token|credentials?)(?:_(?:hash|hashed|enc|encrypted))?$|^(?:pin|passwordhash)$"
)
_KINDS = {TIME_TYPES[0]: "timestamptz", TIME_TYPES[1]: "timestamp", "date": "a date"}
_NUMBERS = ("smallint", "integer", "bigint")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One table's entry for a spec, and why."""

    key: tuple[str, ...]
    """What identifies a row; empty where nothing does."""
    declared: bool
    """The catalog says so itself, so the spec need not."""
    cursor: str | None
    append: bool
    nulls: bool
    """The cursor can be NULL."""
    secrets: tuple[str, ...]
    why: str

    @property
    def entry(self) -> dict[str, Any]:
        """The table's keys in the spec, in the short form where there is one."""
        entry: dict[str, Any] = {}
        if self.key and not self.declared:
            entry["primary_key"] = self.key[0] if len(self.key) == 1 else list(self.key)
        if self.cursor:
            entry["incremental"] = (
                {"cursor": self.cursor, "nulls": "include"} if self.nulls else self.cursor
            )
        if self.append:
            entry["mode"] = "append"
        if self.secrets:
            entry["columns"] = {"exclude": list(self.secrets)}
        return entry

    @property
    def mode(self) -> str:
        """How its rows will land."""
        return "append" if self.append else "merge" if self.cursor else "replace"


def advise(table: SourceTable, facts: Facts) -> Advice:
    """What to write into a spec for `table`."""
    key = table.key or next((tuple(u) for u in facts.uniques if _is_key(table, u)), ())
    cursor, append, why = _cursor(table, facts, key)
    return Advice(
        key=key,
        declared=bool(table.key),
        cursor=cursor,
        append=append,
        nulls=cursor is not None and cursor not in table.not_null,
        secrets=tuple(
            c.name for c in table.columns if looks_secret(c.name) and c.name not in (*key, cursor)
        ),
        why=why,
    )


def whole(advice: Advice, reason: str) -> Advice:
    """The advice to copy the table whole after all, for `reason`."""
    return replace(advice, cursor=None, append=False, nulls=False, why=reason)


def looks_secret(name: str) -> bool:
    """Whether a column of this name probably holds something that does not belong in a warehouse."""
    return bool(_SECRET.search(_plain(name)))


def _is_key(table: SourceTable, columns: list[str]) -> bool:
    usable = (
        table.natures[c.name].is_enum or (has_order(table.natures[c.name].element) and not c.cast)
        for c in map(table.column, columns)
    )
    return (
        set(columns) <= table.not_null
        and all(usable)
        and not any(table.natures[name].loose for name in columns)
    )


def _cursor(table: SourceTable, facts: Facts, key: tuple[str, ...]) -> tuple[str | None, bool, str]:
    updated = max(_times(table, facts, _UPDATED), default=None)
    if updated and key:
        return updated[-1], False, _because(table, facts, updated[-1])
    written_once = bool(_LOGS & set(_plain(table.relation.name).split("_"))) and not facts.changes
    growing = _growing(table, facts)
    if growing and written_once and not updated:
        return (
            growing,
            True,
            f"{_because(table, facts, growing)}; a log by its name, and no row was ever changed",
        )
    if updated:
        return None, False, f"no key to merge by; with one, {updated[-1]} tells what changed"
    if growing:
        return (
            None,
            False,
            (
                f"no column tells of updates; if there are none: {{incremental: {growing}, mode:"
                " append}"
            ),
        )
    return None, False, "no column tells what changed"


def _times(table: SourceTable, facts: Facts, names: re.Pattern[str]) -> Iterator[tuple[Any, ...]]:
    """Time columns with such a name, the best one highest."""
    for place, column in enumerate(table.columns):
        kind = without_modifier(column.type)
        if kind in TIME_TYPES and not column.cast and names.fullmatch(_plain(column.name)):
            nulls, correlation = facts.stats.get(column.name, (0.0, 0.0))
            yield (
                *(
                    column.name in table.not_null,
                    -TIME_TYPES.index(kind),
                    column.name in facts.indexed,
                ),
                *(-nulls, correlation, -place, column.name),
            )


def _growing(table: SourceTable, facts: Facts) -> str | None:
    """A column whose values rise with every row inserted."""
    for column in table.columns:
        if column.name in facts.drawn and column.type in _NUMBERS and column.name in table.not_null:
            return column.name
    created = max(_times(table, facts, _CREATED), default=None)
    return created[-1] if created and created[-1] in table.not_null else None


def _because(table: SourceTable, facts: Facts, name: str) -> str:
    kind = without_modifier(table.column(name).type)
    parts = ["drawn from a sequence" if name in facts.drawn else _KINDS.get(kind, kind)]
    parts.append("not null" if name in table.not_null else "rows with NULL are read on every run")
    parts.append("indexed" if name in facts.indexed else "no index: each run scans the table")
    if kind == "date":
        parts.append("a day is read when it is over")
    return f"{name} is {', '.join(parts)}"


def _plain(name: str) -> str:
    """`updatedAt`, `Updated-At` and `updated at` are all `updated_at`."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).lower()


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A table's entry in the spec, and why it is this one."""

    found: Found
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

    What cannot be carried is put among the choice's `left_out`; raises InputError when it was asked
    for by name.
    """
    from loadsheet.source.discovery import facts

    known = facts(session, [relation.oid for relation in choice.chosen.values()])
    suggestions, problems = {}, []
    for name, relation in choice.chosen.items():
        try:
            if relation.grant:
                raise Refused(f"this role may not read {schema}.{name}: {relation.grant}")
            advice, columns = _advice(session, schema, name, known[relation.oid], choice)
        except Refused as error:
            choice.left_out[name] = str(error)
            problems += [str(error)] if name in choice.named else []
        else:
            entry = fit_to_defaults(advice.entry, advice.key, columns, defaults)
            suggestions[name] = Suggestion(found=relation, advice=advice, entry=entry)
    if problems:
        raise InputError("\n  ".join([*problems, "nothing was written"]))
    return suggestions


def _advice(
    session: Session, schema: str, name: str, known: Facts, choice: Choice
) -> tuple[Advice, list[str]]:
    """The advice, tried out as a run would: a key or a cursor may be one that no row can be
    followed by."""

    from loadsheet.source.catalog import describe
    from loadsheet.source.holdback import sees

    table = describe(session, schema, Table(name=name))
    advice = advise(table, known)
    if advice.cursor:
        try:
            describe(
                session,
                schema,
                Table(
                    name=name,
                    primary_key=() if advice.declared else advice.key,
                    incremental=Incremental(cursor=advice.cursor),
                    mode="append" if advice.append else None,
                ),
            )
        except Refused as error:
            advice = whole(advice, str(error))
    if advice.cursor:
        try:
            sees(session, table, advice.cursor)
        except Refused as error:
            text = str(error).removeprefix(f"{table.relation}: ")
            choice.needed += [text] if text not in choice.needed else []
    return advice, [column.name for column in table.columns]


def print_suggestions(suggestions: Iterable[Suggestion], choice: Choice) -> None:
    """Each new line as it stands in the file, its reason below it, and what was left out."""
    from loadsheet.spec.edit import table_yaml

    for suggestion in suggestions:
        typer.echo(f"  {table_yaml(suggestion.found.name, suggestion.entry)}")
        for line in _reasons(suggestion.advice):
            typer.echo(f"      {on_one_line(line)}")
    if choice.present:
        typer.echo(f"already there: {_names(choice.present)}")
    for why in dict.fromkeys(choice.left_out.values()):
        names = [name for name, reason in choice.left_out.items() if reason == why]
        typer.echo(f"left out: {_names(names)} ({on_one_line(why)})")
    for text in choice.needed:
        typer.echo(f"before increments can be read: {text}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(on_one_line, names))


def _reasons(advice: Advice) -> Iterable[str]:
    yield f"{advice.mode}: {advice.why}"
    if advice.key and not advice.declared:
        yield (
            f"key: {', '.join(advice.key)} is unique and never NULL, though not declared as the"
            " primary key"
        )
    if advice.secrets:
        yield f"not carried, by their names secrets: {', '.join(advice.secrets)}"
