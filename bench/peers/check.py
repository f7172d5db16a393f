"""`python -m bench.peers.check`: each peer does a full load and an increment, on embedded servers.
Not a measurement.

After either, every table must have the source's rows, values and primary key. Where a peer has
given a column another type, a different value is a note, not a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from bench.peers import PEERS, ROOT, command
from demo.flights import generate
from demo.servers import PostgresServer

KEYS = {
    "ticket_flights": ["ticket_no", "flight_id"],
    "boarding_passes": ["ticket_no", "flight_id"],
    "tickets": ["ticket_no"],
    "bookings": ["book_ref"],
    "flights": ["flight_id"],
    "seats": ["aircraft_code", "seat_no"],
    "airports_data": ["airport_code"],
    "aircrafts_data": ["aircraft_code"],
}
WAYS: dict[str, list[dict[str, Any]]] = {
    "dlt_sql": [{"backend": "pyarrow"}, {"backend": "connectorx"}],
    "ingestr": [{}, {"interval": False}],
}
_COLUMNS = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
_NEW = """
INSERT INTO bookings.bookings SELECT '_' || lpad(i::text, 5, '0'), now(), 1.50
FROM generate_series({first} + 1, {first} + 99) i;
INSERT INTO bookings.tickets
SELECT '_' || lpad(i::text, 12, '0'), '_' || lpad(i::text, 5, '0'), i, E'Š, "q"\\n \\\\N'
FROM generate_series({first} + 1, {first} + 99) i
"""
_KEY = (
    "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY"
    " (indkey) WHERE indrelid = %s::regclass AND indisprimary"
)


def ask(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement run in UTC."""
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as session:
        cursor = session.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def change(source: str, number: int) -> tuple[str, str]:
    """Change 1 % of the rows (a trigger writes updated_at) and add some; between which two times
    that was."""
    now = (
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    start = ask(source, now)[0][0]
    for table, key in KEYS.items():
        rows = f"hashtextextended(ROW({', '.join(key)})::text, {number}) % 100 = 0"
        ask(source, f"UPDATE bookings.{table} SET created_at = created_at WHERE {rows}")
    ask(source, _NEW.format(first=number * 100))
    return start, ask(source, now)[0][0]


def compare(job: dict[str, Any], table: str) -> tuple[list[str], list[str]]:
    """What is wrong with one target, and what is only different because its type is."""
    source, target, key = (
        f"{job['source_schema']}.{table}",
        f"{job['target_schema']}.{table}",
        KEYS[table],
    )
    types = dict(ask(job["source"], _COLUMNS, source))
    found = dict(ask(job["warehouse"], _COLUMNS, target))
    wrong, notes = (
        [],
        [
            f"{table}.{name}: {types[name]} is {found[name]}"
            for name in found
            if types.get(name, found[name]) != found[name]
        ],
    )
    if found.keys() != types.keys():
        wrong.append(f"{table} has other columns: {sorted(found.keys() ^ types.keys())}")
    if sorted(name for (name,) in ask(job["warehouse"], _KEY, target)) != sorted(key):
        wrong.append(f"{table} has no primary key ({', '.join(key)})")
    names = [name for name in types if name in found]
    query = "SELECT count(*), " + ", ".join(
        f"md5(string_agg(md5(ROW({', '.join(f'{part}::text' for part in [*key, name])})::text), '' "
        f'ORDER BY ROW({", ".join(f"{part}::text" for part in key)})::text COLLATE "C"))'
        for name in names
    )
    expected, got = (
        ask(job["source"], f"{query} FROM {source}")[0],
        ask(job["warehouse"], f"{query} FROM {target}")[0],
    )
    if expected[0] != got[0]:
        wrong.append(f"{table} has {got[0]} rows, the source {expected[0]}")
    else:
        for name, one, other in zip(names, expected[1:], got[1:], strict=True):
            if one != other:
                (wrong if types[name] == found[name] else notes).append(
                    f"not equal: {table}.{name}"
                )
    return wrong, notes


def run(name: str, job: dict[str, Any]) -> list[str]:
    """One job of one peer: what went wrong. Prints the time and the notes."""
    file = Path(job["state"]) / "job.json"
    file.write_text(json.dumps(job))
    started = time.monotonic()
    done = subprocess.run(
        command(name, file), cwd=ROOT, capture_output=True, text=True, check=False
    )
    took = time.monotonic() - started
    if done.returncode:
        return [f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"]
    results = [compare(job, table) for table in KEYS]
    print(
        f"{name} {job['options']} {job['kind']}: {took:.1f} s,"
        f" {sum(map(len, (w for w, _ in results)))} wrong",
        flush=True,
    )
    if job["kind"] == "full":
        print(*(f"  {note}" for _, notes in results for note in notes), sep="\n")
    return [line for wrong, _ in results for line in wrong]


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PEERS)}; default: all.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Of the flights source.")] = "demo",
) -> None:
    """Let the peers do a full load and an increment, and look at what they wrote."""
    wrong = []
    with (
        # durable: others have passwords of one iteration, which sling refuses
        PostgresServer(durable=True) as one,
        PostgresServer(durable=True) as other,
        tempfile.TemporaryDirectory() as folder,
    ):
        source = one.create_database("flights")
        generate(source, scale)
        ways = [(name, options) for name in names or PEERS for options in WAYS.get(name, [{}])]
        for number, (name, options) in enumerate(ways):
            state = Path(folder) / str(number)
            state.mkdir()
            job = {
                "source": source,
                "warehouse": other.create_database(f"peer_{number}"),
                "source_schema": "bookings",
                "target_schema": f"peer_{name}",
                "state": str(state),
                "parallel": 2,
                "options": options,
                "tables": [
                    {"name": table, "key": key, "cursor": "updated_at"}
                    for table, key in KEYS.items()
                ],
            }
            wrong += run(name, job | {"kind": "full", "interval": None})
            wrong += run(name, job | {"kind": "increment", "interval": change(source, number)})
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
