"""The rules by their codes: the one list that `check`'s output, SARIF and docs/rules.md are made
from."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """Why the rule is there, in one sentence, and what mends its problems."""

    why: str
    fix: str


RULES: dict[str, Rule] = {
    "unreadable-file": Rule(
        "A pipeline is read the same on every machine only from a regular file of at most 1 MiB in"
        " UTF-8.",
        "Save the file as UTF-8 without invisible characters, in the place where the pipeline looks"
        " for it.",
    ),
    "yaml-syntax": Rule(
        "Text that is not YAML has no keys and values, so nothing else in the file can be checked.",
        "Mend the place; most often it is a missing quote, colon, bracket or space.",
    ),
    "yaml-feature": Rule(
        "Anchors, tags, merge keys and second documents make a file say something else than what"
        " stands in it.",
        "Write it out, or put what tables share under `defaults`.",
    ),
    "ambiguous-value": Rule(
        "Without quotes, YAML 1.1 and YAML 1.2 readers take this value for different things.",
        "Put quotes around text, and write numbers with plain digits.",
    ),
    "duplicate-key": Rule(
        "Most YAML readers keep the last of two equal keys without a word, so half of what was"
        " meant is lost.",
        "Keep one of the two.",
    ),
    "unknown-key": Rule(
        "An unknown key would be ignored silently, and its setting would never take effect.",
        "Write the key that was meant, where it belongs, or delete it.",
    ),
    "missing-key": Rule(
        "Nothing sensible can be assumed for this key.",
        "Add it.",
    ),
    "wrong-value": Rule(
        "A value that is not of the expected kind would be misread when the pipeline runs, if not"
        " refused.",
        "Write a value of the kind that the reference of keys names.",
    ),
    "duplicate-item": Rule(
        "A duplicate entry in a list is a mistake: often another one was meant.",
        "Drop one, or write the other that was meant.",
    ),
    "connection-in-spec": Rule(
        "A spec is read by many and kept in Git; hosts, logins and passwords belong to the"
        " connection, which is not.",
        "Define the connection in connections/connections.yml or AIRFLOW_CONN_<ID>, and write only"
        " its id.",
    ),
    "bad-name": Rule(
        "PostgreSQL cuts names after 63 bytes without a word, and Airflow takes only plain"
        " characters in a DAG id.",
        "Choose a shorter or plainer name.",
    ),
    "odd-name": Rule(
        "The name is possible, but names like it nearly always mean something else: a schema,"
        " several columns, a pattern.",
        "Write it as the hint says, or leave it if it is really the name.",
    ),
    "bad-schedule": Rule(
        "Airflow would refuse the schedule, or the pipeline would never run.",
        'Write a preset such as `"@daily"` or five cron fields, in UTC, and dates that are in the'
        " calendar.",
    ),
    "schema-clash": Rule(
        "Tables written to a schema that belongs to another team replace what is there.",
        "Give staging tables and marts a schema of their own each.",
    ),
    "unsafe-mode": Rule(
        "Rows would be lost, doubled, or never found again when the table is loaded like this.",
        "Choose a mode that fits: replace for whole tables, merge or append with `incremental`;"
        " merge needs a key.",
    ),
    "column-conflict": Rule(
        "Key and cursor columns have to reach the warehouse, and one list of columns has to decide"
        " which others do.",
        "Keep either include or exclude, with the key and the cursor among the columns that are"
        " carried.",
    ),
    "one-table-only": Rule(
        "Key and columns of one table are not those of all tables that a pattern matches.",
        "Give the table that needs them an entry of its own: it wins over the pattern.",
    ),
    "no-effect": Rule(
        "A setting that does nothing makes its readers believe that it does.",
        "Drop it, or add what it needs.",
    ),
    "sql-file": Rule(
        "Each transform is built from the file sql/<name>.sql in the pipeline's folder, and each"
        " such file is used.",
        "Create, fill, rename or delete the file.",
    ),
    "sql-syntax": Rule(
        "What a transform reads, and so when it runs, follows from its SQL; that has to be"
        " readable.",
        "Mend the SQL; what only the server understands can stand in a script's DO block.",
    ),
    "sql-not-select": Rule(
        "A table, view or merge is made from the rows of one SELECT.",
        "Write one SELECT, or set `materialized: script`.",
    ),
    "sql-script": Rule(
        "A script runs in one transaction of ours, together with its line in the ledger.",
        "Take COMMIT, ROLLBACK and what else begins or ends a transaction, or cannot run in one,"
        " out of the file.",
    ),
    "unknown-parameter": Rule(
        "Only known parameters are bound; any other one would reach the server as it stands and"
        " fail there.",
        "Use one of the known parameters.",
    ),
    "unknown-table": Rule(
        "A transform that reads a table that no pipeline loads or builds fails at night, or reads what is"
        " long out of date.",
        "Mend the name, add the table to `tables`, or list it under `external` if it is made"
        " elsewhere.",
    ),
    "unknown-column": Rule(
        "The transform would fail when it runs: the columns of what it reads are known, and this is"
        " none of them.",
        "Mend the name, or carry the column: see `columns` of the table.",
    ),
    "duplicate-column": Rule(
        "A table or a view cannot have two columns of one name, so the transform would fail when it"
        " runs.",
        "Name one of them otherwise with AS, or leave it out.",
    ),
    "sql-cycle": Rule(
        "Transforms that read each other in a circle, or one that reads itself, have no order in"
        " which they could run.",
        "Take one of the reads out, or make one transform of two.",
    ),
    "test-file": Rule(
        "A test that gives or expects something else than the pipeline has would fail for no fault"
        " of its SQL.",
        "Write it as docs/testing.md shows; `loadsheet test` runs it.",
    ),
    "duplicate-pipeline": Rule(
        "A pipeline's name is its DAG id: of two pipelines with one name, Airflow can run only"
        " one.",
        "Give each pipeline a name of its own.",
    ),
    "duplicate-target": Rule(
        "Two pipelines that write one table undo each other's work, each time the other one has"
        " run.",
        "Load it once, and list it under `external` in the other pipeline or, where a pattern"
        " matches it, under the pattern's `exclude`; or give one of them another schema.",
    ),
    "unknown-connection": Rule(
        "The project's connections/ says which connections there are; a task that asks for another"
        " one fails.",
        "Mend the id, add it to connections/connections.yml, or set AIRFLOW_CONN_<ID> where `check`"
        " runs. Where a secrets backend has it, set AIRFLOW__SECRETS__BACKEND there, or in `.env`,"
        " as Airflow has it.",
    ),
    "unknown-pool": Rule(
        "Tasks of a pool that does not exist wait for ever, and Airflow shows no error.",
        "Mend the name, or add the pool to connections/pools.json.",
    ),
}

DOCS = "docs/rules.md"
KEYS = "docs/spec.md"
TESTING = "docs/testing.md"

_NAMED = re.compile(r'(tables|transforms)\.(?:"(?:[^"\\]|\\.)*"|[\w-]+…?)(?:\.(\w+))?')
_NESTED = {"tables": ("incremental", "columns", "schema_contract"), "transforms": ()}
_SECTIONS = ("source", "lake", "warehouse", "notify", "tasks")


def links(code: str, path: str) -> tuple[str, ...]:
    """Where to read on about a problem: the rule's section, and that of the keys around `path`."""
    if code == "test-file":
        return f"{DOCS}#{code}", *((TESTING,) if path else ())
    about = path.split(".")[0].split("[")[0]
    keys = about if about in _SECTIONS else "top-level"
    if about == "defaults":
        path, about = path.replace("defaults", "tables.all", 1), "tables"
    if named := _NAMED.match(path):
        nested = named[2] if named[2] in _NESTED[about] else ""
        keys = f"{about}name{nested}"
    return tuple(filter(None, (f"{DOCS}#{code}" if code else "", f"{KEYS}#{keys}" if path else "")))
