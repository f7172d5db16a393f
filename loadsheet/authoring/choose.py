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
    from loadsheet.source.discovery import SourceRelation
    from loadsheet.spec.models import Pattern

    PatternOf = Callable[[str], Pattern | None]

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
# Names listed in an error.
_MOST_NAMES = 10


@dataclass
class Choice:
    """The relations to add, and what becomes of the others that were matched."""

    chosen: dict[str, SourceRelation] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """Those of `chosen` that the user named: it is an error if one cannot be added."""
    present: list[str] = field(default_factory=list)
    """Tables that the file has already."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Relations that a pattern matched and that are not added, each with the reason."""
    needed: list[str] = field(default_factory=list)
    """Rights to grant before a run can read increments."""

    @property
    def document(self) -> dict[str, Any]:
        """Everything but the chosen relations, for `--json`."""
        return {"already_there": self.present, "left_out": self.left_out, "needed": self.needed}


def choose(
    wanted: Sequence[str],
    schema: str,
    found: Iterable[SourceRelation],
    present: Collection[str],
    pattern_of: PatternOf = lambda name: None,
) -> Choice:
    """Select those of the relations `found` in `schema` that `wanted` names or matches by a
    pattern (`*`, `bookings.*`).

    The file has the tables `present`; `pattern_of` returns the pattern of the file that matches a
    table already. Raises InputError with every name and pattern that matches nothing, and the
    closest names.
    """
    relations = {relation.name: relation for relation in found}
    choice = Choice()
    problems = []
    for text in wanted:
        name = text
        if text not in relations:
            name = text.removeprefix(f"{schema}.")
        # A table may have a name that looks like a pattern, so names come first.
        if name in relations:
            why_not = _unwritable(name)
            if why_not:
                problems.append(f"{name}: {why_not}")
                continue
            _add(choice, relations[name], present)
            choice.named.add(name)
            continue
        # Here also `[abc]`, as in a shell; a pipeline file knows only * and ?.
        if not any(character in name for character in "*?["):
            problems.append(_unknown(text, schema, relations))
            continue
        matched = [relation for relation in relations.values() if fnmatchcase(relation.name, name)]
        if matched:
            _add_matched(choice, matched, present, pattern_of)
        else:
            names = _some(relations)
            problems.append(f"no table in schema {schema!r} matches {text!r}; it has {names}")
    if problems:
        raise InputError("\n  ".join([*problems, "nothing was written"]))
    # A pattern may have left out a table that the user also names.
    for name in choice.named:
        choice.left_out.pop(name, None)
    return choice


def _add(choice: Choice, relation: SourceRelation, present: Collection[str]) -> None:
    if relation.name not in present:
        choice.chosen[relation.name] = relation
    elif relation.name not in choice.present:
        choice.present.append(relation.name)


def _add_matched(
    choice: Choice,
    matched: Iterable[SourceRelation],
    present: Collection[str],
    pattern_of: PatternOf,
) -> None:
    for relation in matched:
        why_not = _reason_to_leave_out(relation)
        pattern = pattern_of(relation.name)
        if pattern and not why_not:
            why_not = (
                f"the file's pattern {pattern.name} matches it; name it to give it a separate entry"
            )
        # A table that the file has already is listed as that, whatever else is true of it.
        if why_not and relation.name not in present:
            choice.left_out[relation.name] = why_not
        else:
            _add(choice, relation, present)


def _reason_to_leave_out(relation: SourceRelation) -> str:
    """Why a pattern does not add the relation; empty where it does."""
    unwritable = _unwritable(relation.name)
    if unwritable:
        return unwritable
    if relation.part_of:
        return f"part of {relation.part_of}, which has its rows"
    if relation.extension:
        return f"belongs to the extension {relation.extension}"
    if relation.kind in _KINDS:
        return f"{_KINDS[relation.kind]}; name it to add it"
    if relation.grant:
        return f"this role may not read it: {relation.grant}"
    return ""


def _unwritable(name: str) -> str:
    """Why a table of this name cannot be added to a file; empty where it can."""
    if is_pattern(name):
        return (
            "with * or ? in its name, it would be a pattern: write it into the file yourself, as"
            f" {escape_wildcards(name)!r}"
        )
    unprintable = UNPRINTABLE.search(name)
    if unprintable:
        code = f"U+{ord(unprintable[0]):04X}"
        return f"its name has the character {code}, which a pipeline file must not contain"
    return ""


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
        hint = "; there is a file of that name: quote a pattern ('*'), or the shell expands it"
    else:
        hint = f"; it has {_some(relations)}"
    return f"the source has no table {text!r}{hint}"


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long for a file's name
        return False


def _some(relations: Collection[str]) -> str:
    names = sorted(relations)
    if not names:
        return "no tables"
    if len(names) > _MOST_NAMES:
        names[_MOST_NAMES:] = ["..."]
    return ", ".join(names)
