"""Names and patterns from a command line -> relations of the source, and a reason for whatever is
left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadsheet.errors import InputError
from loadsheet.names import closest, escape_wildcards, is_pattern
from loadsheet.spec.files import UNPRINTABLE

if TYPE_CHECKING:
    from loadsheet.source.discovery import Found
    from loadsheet.spec.models import Pattern

    PatternOf = Callable[[str], Pattern | None]

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


@dataclass
class Choice:
    """Relations to add, those the file has already, and those a pattern matched but should not
    bring in, with why."""

    chosen: dict[str, Found] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """Chosen by their own name, so that nothing may quietly leave them out."""
    present: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    """What has to be done before a run can read increments."""

    @property
    def document(self) -> dict[str, Any]:
        """For `--json`, all but the chosen ones."""
        return {"already_there": self.present, "left_out": self.left_out, "needed": self.needed}


def choose(
    wanted: Sequence[str],
    schema: str,
    found: Iterable[Found],
    present: Collection[str],
    pattern_of: PatternOf = lambda name: None,
) -> Choice:
    """What `wanted`, names and patterns (`*`, `bookings.*`), means among the relations `found` in
    `schema`.

    The file has the tables `present`, and `pattern_of` says which of its patterns carries a table
    already. Raises InputError naming every name and pattern that matches nothing, with the closest
    names.
    """
    relations = {relation.name: relation for relation in found}
    choice = Choice()
    problems = []
    for text in wanted:
        name = text
        if text not in relations:
            name = text.removeprefix(f"{schema}.")
        if name in relations:
            why = _unwritable(name)
            if why:
                problems.append(f"{name}: {why}")
                continue
            _add(choice, relations[name], present)
            choice.named.add(name)
        elif not _is_pattern(name):
            problems.append(_unknown(text, schema, relations))
        else:
            matched = [found for found in relations.values() if fnmatchcase(found.name, name)]
            if matched:
                _add_matched(choice, matched, present, pattern_of)
            else:
                problems.append(_unmatched(text, schema, relations))
    if problems:
        raise InputError("\n  ".join([*problems, "nothing was written"]))
    for name in choice.named:
        choice.left_out.pop(name, None)
    return choice


def _add(choice: Choice, relation: Found, present: Collection[str]) -> None:
    if relation.name not in present:
        choice.chosen[relation.name] = relation
    elif relation.name not in choice.present:
        choice.present.append(relation.name)


def _add_matched(
    choice: Choice, matched: Iterable[Found], present: Collection[str], pattern_of: PatternOf
) -> None:
    for relation in matched:
        why = _why_not(relation)
        if not why and (pattern := pattern_of(relation.name)):
            why = (
                f"the file's pattern {pattern.name} carries it; name it to give it an entry of"
                " its own"
            )
        if why and relation.name not in present:
            choice.left_out[relation.name] = why
        else:
            _add(choice, relation, present)


def _why_not(relation: Found) -> str:
    """Why a pattern does not bring the relation in; empty where it does."""
    if why := _unwritable(relation.name):
        return why
    if relation.part_of:
        return f"part of {relation.part_of}, which has its rows"
    if relation.extension:
        return f"belongs to the extension {relation.extension}"
    if kind := _KINDS.get(relation.kind):
        return f"{kind}; name it to add it"
    return f"this role may not read it: {relation.grant}" if relation.grant else ""


def _unwritable(name: str) -> str:
    """Why a table of this name is not added to a file; empty where it can be."""
    if is_pattern(name):
        return (
            "with * or ? in its name, it would be a pattern: write it into the file yourself, as"
            f" {escape_wildcards(name)!r}"
        )
    if odd := UNPRINTABLE.search(name):
        return f"no pipeline file may hold the character U+{ord(odd[0]):04X} of its name"
    return ""


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _unknown(text: str, schema: str, relations: Collection[str]) -> str:
    owner, _, name = text.rpartition(".")
    meant = closest(name, relations)
    if owner and owner != schema:
        hint = (
            f"; source.schema is {schema}, and tables of another schema need a pipeline of"
            " their own"
        )
    elif meant:
        hint = f" (did you mean {meant!r}?)"
    elif _is_file(text):
        hint = (
            "; it is a file here: quote a pattern ('*'), or the shell puts file names in its place"
        )
    else:
        hint = f"; it has {_some(relations)}"
    return f"the source has no table {text!r}{hint}"


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long for a file's name
        return False


def _unmatched(text: str, schema: str, relations: Collection[str]) -> str:
    return f"no table in schema {schema!r} matches {text!r}; it has {_some(relations)}"


def _some(relations: Collection[str]) -> str:
    names = sorted(relations)
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])]) or "no tables"
