"""SQL that hashes the rows of a table the same way on the source and on the warehouse.

Each server returns a count and the sums of two hashes of its rows. Two hashes, because a collision
of one must not hide a difference. A sum, because equal rows cancel each other out in an XOR.

    total = count(*), sum(hash(row, seed 1)), sum(hash(row, seed 2))

A hash is of a row as a whole: no sum of hashes of its values, which would stay as it was if two
rows swapped one. If the rows differ, whichever and however many, one sum is the same on both sides
with a probability of about 2^-64, and both with one of 2^-128.

Only where the totals differ, each server is asked again, for sums by buckets of the keys' hashes:
one answer of `BUCKETS` lines. To find and to sum each row's bucket took 0.4 us for each row, as
much as all hashes of a row of eight columns.

    bucket = hash(key) & (BUCKETS - 1)
    digest = count(*), sum(hash(row, hash(key))), sum(hash(row, ~hash(key)))

A search for deleted rows asks for `keys_only`. There the sum of the keys' hashes is all that is
compared: two tables whose keys differ have one total with a probability of 2^-64, and the same
digests in all buckets with one of 2^-52. That is one hash for each row instead of two or three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import psycopg

from loadsheet.comparison.hashing import Recipe, chained, recipe
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident, literal
from loadsheet.sql.types import has_one_form

BUCKETS = 4096
Hash = Literal["server", "md5"]
"""`server`: PostgreSQL's own hash of a row, 2.4 times as fast. `md5`: of the row's text, which is
the same on all servers."""

_KEY, _FIRST, _SECOND = 1, 2, 3
# Far from each other, and random. An integer goes into the seed by an XOR, so with 2 and 3 the one
# hash of the key 4 would be the other one of the key 5: their sums would be equal, too.
_SEEDS = {_KEY: "1", _FIRST: "3518806452149863771", _SECOND: "8205437121398847146"}
_LONGEST_SHOWN = 2_000
# Since PostgreSQL 14 rows have a hash function, which bytes are hashed by.
_RECORD_HASH_SINCE = 140000
INTEGERS = ("smallint", "integer", "bigint")
# What a server says that has not all of the functions, or keeps one from the role.
_LACKING = (
    *(psycopg.ProgrammingError, psycopg.NotSupportedError),
    *(psycopg.DataError, psycopg.InternalError),
)
# Values of every type that is not hashed as text. The hash functions promise to be equal within a
# server only, so both servers are asked. In UTF8: another encoding may not even have these letters.
_BATTERY = (
    ("smallint", "-7"),
    ("integer", "123456789"),
    ("bigint", "-98765432109876"),
    ("bigint", None),
    ("oid", "4000000000"),
    ("boolean", "true"),
    ("uuid", "a81bc81b-dead-4e5d-abff-90865d1e13b1"),
    ("uuid", None),
    ("bytea", "\\x00ff10"),
    ("bytea", None),
    ("text", "Zürich – 東京"),
    ("character varying", ""),
    ("text", None),
    ("text", "long " * 1000),
    ("date", "2026-02-28"),
    ("date", "-infinity"),
    ("timestamp with time zone", "2026-02-28 12:00:00.000001+00"),
    ("timestamp with time zone", None),
    ("timestamp without time zone", "0001-02-28 12:00:00.000001"),
    ("timestamp without time zone", "infinity"),
    ("numeric(10,2)", "-1200.50"),
    ("numeric(10,2)", "NaN"),
    ("numeric", "1200.00"),
    ("numeric", "-Infinity"),
    ("real", "0.1"),
    ("double precision", "-0"),
    ("double precision", "NaN"),
    ("jsonb", '{"a": 1.0}'),
)


@dataclass(frozen=True)
class Value:
    """A column on one side: its name there, and the landing type that both sides have."""

    name: str
    type: str
    is_cast: bool = False
    """The source's own type does not land: it is read as its landing type."""
    is_lost: bool = False
    """The side does not have the column any more: NULL in all rows."""

    @property
    def landed(self) -> str:
        """SQL for the value in its landing type."""
        if self.is_lost:
            return f"CAST(NULL AS {self.type})"
        name = ident(self.name)
        return f"CAST({name} AS {self.type})" if self.is_cast else name

    @property
    def text(self) -> str:
        """SQL for the value as text, NULL for NULL: equal if and only if the value is the same.

        `format` writes what COPY writes. A cast does not: that of bpchar drops trailing blanks.
        """
        return f"CASE WHEN {self.landed} IS NOT NULL THEN format('%s', {self.landed}) END"

    @property
    def shown(self) -> str:
        """SQL for the value as text to show, NULL for NULL: equal if and only if the value is the
        same. Long ones as their length and hash: 100 rows with documents of 5 MB took 1.5 GB."""
        return (
            f"CASE WHEN length({self.text}) <= {_LONGEST_SHOWN} THEN {self.text}"
            f" ELSE length({self.text}) || ' characters, SHA-256 '"
            f" || encode(sha256(convert_to({self.text}, 'UTF8')), 'hex') END"
        )

    @property
    def has_one_form(self) -> bool:
        """Whether values that are equal as keys are always the same."""
        return has_one_form(self.type)

    @property
    def recipe(self) -> Recipe:
        """How it is hashed: as text, unless equal values of the type are always the same, or what
        tells them apart is hashed, too."""
        return recipe(self.landed, self.type, self.text)


@dataclass(frozen=True)
class Query:
    """A SELECT in the place of a table."""

    text: str

    @property
    def sql(self) -> str:
        """As FROM takes it. Its last line may be a comment."""
        return f"(\n{self.text}\n) AS selected"


@dataclass(frozen=True)
class Side:
    """A table on one of the two servers."""

    relation: Relation | Query
    values: tuple[Value, ...]
    """The columns to compare, in the same order on both sides."""
    key: tuple[int, ...]
    """The places of the primary key among them; empty where rows have none."""
    hash: Hash
    chosen: str = "TRUE"
    """SQL condition on the rows to compare."""
    expected: str = "TRUE"
    """SQL condition on the rows that `digests` counts: those that the other side must have."""
    live: str = "TRUE"
    """SQL condition on the rows that are not marked as deleted."""
    keys_only: bool = False
    """Whether one hash of the key is enough for a digest: see above."""

    def total(self, within: str = "TRUE") -> str:
        """SELECT of 0, count and sums over all rows; of nothing where there are none. Here and
        below `within` is a condition that divides the rows into ranges."""
        rows = self._from(range(BUCKETS), within, self.chosen, self.expected)
        if self.keys_only:
            return f"SELECT 0, count(*), sum({self.key_hash})::text, '0'{rows} HAVING count(*) > 0"
        first, second = (self._hash_of(self._part_names, n, _SEEDS[n]) for n in (_FIRST, _SECOND))
        # Without OFFSET, PostgreSQL would compute the parts for each of the two hashes.
        return (
            f"SELECT 0, count(*), sum({first})::text, sum({second})::text"
            f" FROM (SELECT {self._named_parts}{rows} OFFSET 0) AS hashed HAVING count(*) > 0"
        )

    def digests(self, buckets: Sequence[int], within: str = "TRUE") -> str:
        """SELECT of bucket, count and sums, for each of these buckets that has rows."""
        rows = self._from(buckets, within, self.chosen, self.expected)
        if self.keys_only:
            # Without OFFSET the hash would be computed twice: 3 million integers took 1.2 times as
            # long.
            return (
                f"SELECT (h & {BUCKETS - 1})::int AS bucket, count(*), sum(h)::text, '0'"
                f" FROM (SELECT {self.key_hash} AS h{rows} OFFSET 0) one GROUP BY 1"
            )
        # Without OFFSET, PostgreSQL would compute the hash of the key and the parts for each use,
        # and would sort all rows, because it expects a bucket for each. Together that took twice
        # the CPU for rows of eight columns, and a sort on disk.
        return (
            f"SELECT (h & {BUCKETS - 1})::int AS bucket, count(*),"
            f" sum({self._hash_of(self._part_names, _FIRST, 'h')})::text,"
            f" sum({self._hash_of(self._part_names, _SECOND, '(~h)')})::text"
            f" FROM (SELECT {self.key_hash} AS h, {self._named_parts}{rows} OFFSET 0) AS hashed"
            " GROUP BY 1"
        )

    def exists(self, condition: str, within: str = "TRUE") -> str:
        """SELECT of whether one of the rows to compare meets the condition."""
        rows = self._from(range(BUCKETS), within, self.chosen, condition)
        return f"SELECT EXISTS (SELECT{rows})"

    def rows(
        self, buckets: Sequence[int], settled: str, within: str = "TRUE", unfiltered: bool = False
    ) -> str:
        """SELECT of key hash, key, two row hashes, whether `settled` holds and whether the row is
        chosen, for the rows in these buckets, in an order that both servers share. `unfiltered`:
        not only for the chosen ones."""
        chosen = "TRUE" if unfiltered else self.chosen
        return (
            f"SELECT {self.key_hash}, {self.key_text}, {self.row_hash(_FIRST)},"
            f" {self.row_hash(_SECOND)}, ({settled}) IS TRUE, ({self.chosen}) IS TRUE"
            f"{self._from(buckets, within, chosen)} ORDER BY 1, 2"
        )

    def counts(self, buckets: Sequence[int], settled: str, within: str = "TRUE") -> str:
        """SELECT of the two row hashes, how many rows have them, and for how many of those
        `settled` holds; in an order that both servers share. For rows without a key."""
        return (
            f"SELECT {self.row_hash(_FIRST)}, {self.row_hash(_SECOND)}, count(*),"
            f" count(*) FILTER (WHERE {settled})"
            f"{self._from(buckets, within, self.chosen)} GROUP BY 1, 2 ORDER BY 1, 2"
        )

    def texts(self, keys: Sequence[tuple[int, str]]) -> str:
        """SELECT of the key and of every column as it is shown, for the rows with these keys."""
        hashes = ", ".join(f"{key_hash}::bigint" for key_hash in {key_hash for key_hash, _ in keys})
        texts = ", ".join(literal(text) for _, text in keys)
        return (
            f"SELECT {self.key_text}, ARRAY[{', '.join(value.shown for value in self.values)}]"
            f" FROM {self.relation.sql}"
            f" WHERE {self.key_hash} IN ({hashes}) AND {self.key_text} IN ({texts})"
        )

    def same_keys(self, keys: Sequence[Sequence[str | None]], settled: str) -> str:
        """SELECT of a key's place among `keys`, each the texts of its columns, of the hash and the
        text that it has here, whether `settled` holds and whether the row is chosen, for the rows
        whose keys are equal to one of them: 1.00 is, to 1.0."""
        columns = [self.values[place] for place in self.key]
        rows = [
            f"({number}, {', '.join(map(_constant, key, columns))})"
            for number, key in enumerate(keys)
        ]
        # The table may have a column of any shorter name.
        names = [f"_loadsheet_key_{number}" for number, _ in enumerate(columns)]
        same = [f"{column.landed} = {name}" for column, name in zip(columns, names, strict=True)]
        return (
            f"SELECT _loadsheet_place, {self.key_hash}, {self.key_text},"
            f" ({settled}) IS TRUE, ({self.chosen}) IS TRUE"
            f" FROM (VALUES {', '.join(rows)})"
            f" AS _loadsheet_given (_loadsheet_place, {', '.join(names)})"
            # A JOIN would hide the system columns, which `settled` asks for.
            f", {self.relation.sql} WHERE {self.live} AND {' AND '.join(same)}"
        )

    def with_keys(self, keys: Iterable[Sequence[str | None]]) -> str:
        """SQL condition on the rows with these keys, each the texts of its columns."""
        return with_keys([self.values[place] for place in self.key], keys)

    @property
    def key_has_one_form(self) -> bool:
        """Whether keys that are equal are always the same."""
        return all(self.values[place].has_one_form for place in self.key)

    @cached_property
    def key_hash(self) -> str:
        """SQL for the hash of the row's key; of the whole row where it has none."""
        values = [self.values[place] for place in self.key]
        if values and self.hash == "server":
            recipes = [value.recipe for value in values]
            return chained(recipes, _all_parts(recipes), _SEEDS[_KEY], _KEY)
        if values:
            return _md5_number(_md5_of(values), _KEY)
        return self.row_hash(_KEY)

    @cached_property
    def key_text(self) -> str:
        """SQL for the key as a JSON array of texts."""
        parts = ", ".join(self.values[place].text for place in self.key)
        return f'CAST(json_build_array({parts}) AS text) COLLATE "C"'

    @property
    def _bucket(self) -> str:
        return f"({self.key_hash} & {BUCKETS - 1})::int"

    @staticmethod
    def bucket_of(key_hash: int) -> int:
        """The bucket of a row whose key has this hash."""
        return key_hash & (BUCKETS - 1)

    def _from(self, buckets: Sequence[int], *conditions: str) -> str:
        conditions = (self.live, *conditions)
        wanted = [f"({condition})" for condition in conditions if condition != "TRUE"]
        wanted.append(self.within(buckets))
        return f" FROM {self.relation.sql} WHERE {' AND '.join(wanted)}"

    def within(self, buckets: Sequence[int]) -> str:
        """SQL condition on the rows in these buckets."""
        if len(buckets) == BUCKETS:
            return "TRUE"
        return f"{self._bucket} IN ({', '.join(map(str, buckets))})"

    def row_hash(self, number: int) -> str:
        """SQL for one of the hashes of a row."""
        return self._hash_of(self._parts, number, _SEEDS[number])

    @cached_property
    def _recipes(self) -> list[Recipe]:
        return [value.recipe for value in self.values]

    @cached_property
    def _parts(self) -> list[str]:
        """SQL of what the hashes of a row are made from: the parts of its values, or the MD5 of its
        text."""
        if self.hash == "server":
            return _all_parts(self._recipes)
        return [_md5_of(self.values)]

    @property
    def _part_names(self) -> list[str]:
        return [f"v{number}" for number, _ in enumerate(self._parts)]

    @property
    def _named_parts(self) -> str:
        pairs = zip(self._parts, self._part_names, strict=True)
        return ", ".join(f"{part} AS {name}" for part, name in pairs)

    def _hash_of(self, parts: Sequence[str], number: int, seed: str) -> str:
        if self.hash == "server":
            return chained(self._recipes, parts, seed, number)
        return _md5_number(parts[0], number)


def _all_parts(recipes: Iterable[Recipe]) -> list[str]:
    return [part for recipe in recipes for part in recipe.parts]


def _md5_of(values: Sequence[Value]) -> str:
    row = f"CAST(ROW({', '.join(value.text for value in values)}) AS text)"
    return f"md5(convert_to({row}, 'UTF8'))"


def _md5_number(md5: str, number: int) -> str:
    # 64 of the 128 bits, others for each hash of the row; the key's are the first one's.
    start = 17 if number == _SECOND else 1
    return f"('x' || substr({md5}, {start}, 16))::bit(64)::bigint"


def _constant(text: str | None, column: Value) -> str:
    value = "NULL" if text is None else literal(text)
    return f"CAST({value} AS {column.type})"


def with_keys(columns: Sequence[Value], keys: Iterable[Sequence[str | None]]) -> str:
    """SQL condition on the rows whose `columns` have one of these keys, given as texts."""
    rows: list[str] = []
    for key in keys:
        values = []
        for text, column in zip(key, columns, strict=True):
            # A view may have NULL in what the spec calls its key.
            value = "NULL" if text is None else literal(text)
            # The first row gives the others their types.
            values.append(value if rows else f"CAST({value} AS {column.type})")
        rows.append(f"({', '.join(values)})")
    if not rows:
        return "FALSE"
    names = ", ".join(column.landed for column in columns)
    # A list of values is joined by a hash. IN with constants was slow before PostgreSQL 14.
    return f"({names}) IN (VALUES {', '.join(rows)})"


def shared_hash(source: Session, warehouse: Session) -> Hash:
    """The hash of rows that both servers compute alike. Both sessions are in a transaction."""
    answers = []
    for session in (source, warehouse):
        encoding = session.info.parameter_status("server_encoding")
        if session.info.server_version < _RECORD_HASH_SINCE or encoding != "UTF8":
            return "md5"
        try:
            with session.transaction():
                answers.append(session.execute(_battery()).fetchone())
        except _LACKING:
            return "md5"
    one, other = answers
    return "server" if one == other else "md5"


def _battery() -> str:
    values = tuple(Value(f"c{number}", type_name) for number, (type_name, _) in enumerate(_BATTERY))
    columns = []
    for value, (type_name, text) in zip(values, _BATTERY, strict=True):
        sample = "NULL" if text is None else literal(text)
        columns.append(f"CAST({sample} AS {type_name}) AS {ident(value.name)}")
    side = Side(Query(f"SELECT {', '.join(columns)}"), values, (), "server")
    hashes = ", ".join(side.row_hash(number) for number in (_KEY, _FIRST, _SECOND))
    return f"SELECT {hashes} FROM {side.relation.sql}"
