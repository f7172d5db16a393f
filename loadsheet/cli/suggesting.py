"""What to write into a spec for tables of the source, as its catalogs and the file's defaults have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from loadsheet.errors import InputError, Refused
from loadsheet.spec.fitting import fitted
from loadsheet.spec.models import Incremental, Table
from loadsheet.visible import on_one_line

if TYPE_CHECKING:
    from loadsheet.cli.choosing import Choice
    from loadsheet.postgres import Session
    from loadsheet.source.advice import Advice
    from loadsheet.source.discovery import Facts, Found


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
            "table": self.found.name, "entry": self.entry, "mode": self.advice.mode, "key": self.advice.key,
            "cursor": self.advice.cursor, "excluded": self.advice.secrets, "rows": self.found.rows,
            "why": self.advice.why,
        }  # fmt: skip


def suggest(session: Session, schema: str, choice: Choice, defaults: Mapping[str, Any]) -> dict[str, Suggestion]:
    """Each chosen table's suggestion, by name.

    What cannot be carried is put among the choice's `left_out`; raises InputError when it was asked for by name.
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
            entry = fitted(advice.entry, advice.key, columns, defaults)
            suggestions[name] = Suggestion(found=relation, advice=advice, entry=entry)
    if problems:
        raise InputError("\n  ".join([*problems, "nothing was written"]))
    return suggestions


def _advice(session: Session, schema: str, name: str, known: Facts, choice: Choice) -> tuple[Advice, list[str]]:
    """The advice, tried out as a run would: a key or a cursor may be one that no row can be followed by."""
    from loadsheet.source.advice import advise, whole
    from loadsheet.source.catalog import describe
    from loadsheet.source.holdback import sees

    table = describe(session, schema, Table(name=name))
    advice = advise(table, known)
    if advice.cursor:
        try:
            describe(
                session, schema,
                Table(
                    name=name, primary_key=() if advice.declared else advice.key,
                    incremental=Incremental(cursor=advice.cursor), mode="append" if advice.append else None,
                ),
            )  # fmt: skip
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
    from loadsheet.spec.writing import pair

    for suggestion in suggestions:
        typer.echo(f"  {pair(suggestion.found.name, suggestion.entry)}")
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
        yield f"key: {', '.join(advice.key)} is unique and never NULL, though not declared as the primary key"
    if advice.secrets:
        yield f"not carried, by their names secrets: {', '.join(advice.secrets)}"
