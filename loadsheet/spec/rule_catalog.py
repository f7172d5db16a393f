"""All rules by their codes. The output of `check`, SARIF and docs/rules.md are made from this
list."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """Why the rule exists, and how to fix a violation."""

    why: str
    fix: str


RULES: dict[str, Rule] = {
    "unreadable-file": Rule(
        "A file is read the same on every machine only if it is a regular UTF-8 file of at most 1"
        " MiB.",
        "Save the file as UTF-8 without invisible characters, in the place where the pipeline"
        " looks for it.",
    ),
    "too-much": Rule(
        "All pipelines of a project are read together, so one that takes long to check would hold"
        " up those of other authors. The limits are far above what a pipeline needs.",
        "Split the pipeline or the SQL file, and load long lists of values as a table.",
    ),
    "yaml-syntax": Rule(
        "Text that is not valid YAML has no keys and values, so nothing else in the file can be"
        " checked.",
        "Correct the place that is shown; most often a quote, colon, bracket or space is missing.",
    ),
    "yaml-feature": Rule(
        "Anchors, tags, merge keys and several documents in one file make a file mean something"
        " other than what is written at each key.",
        "Write the values out, or put settings that tables share under `defaults`.",
    ),
    "ambiguous-value": Rule(
        "YAML 1.1 and YAML 1.2 parsers read this unquoted value differently.",
        "Quote text, and write numbers with plain digits.",
    ),
    "duplicate-key": Rule(
        "Most YAML parsers silently keep the last of two equal keys, so half of what you wrote is"
        " lost.",
        "Remove one of the two.",
    ),
    "unknown-key": Rule(
        "An unknown key would be ignored silently, and its setting would never take effect.",
        "Correct the key, move it to where it belongs, or delete it.",
    ),
    "missing-key": Rule(
        "This key is required: it has no sensible default.",
        "Add the key.",
    ),
    "wrong-value": Rule(
        "A value of the wrong kind would make the pipeline fail, or do something you did not mean.",
        "Write a value of the kind that the reference of keys names.",
    ),
    "duplicate-item": Rule(
        "A duplicate item in a list is a mistake: often a different one was meant.",
        "Remove one of the two, or replace it with the one you meant.",
    ),
    "connection-in-spec": Rule(
        "Pipeline files are read by many people and kept in Git. Hosts, logins and passwords"
        " belong to the connection, which is not.",
        "Define the connection in connections/connections.yml or AIRFLOW_CONN_<ID>, and write"
        " only its id in the pipeline file.",
    ),
    "bad-name": Rule(
        "PostgreSQL silently truncates names after 63 bytes, and Airflow accepts only plain"
        " characters in a DAG id.",
        "Choose a shorter or plainer name.",
    ),
    "odd-name": Rule(
        "The name is possible, but such a name nearly always means something else: a schema,"
        " several columns, a pattern.",
        "Write it as the hint shows. If it really is the name, ignore the warning.",
    ),
    "bad-schedule": Rule(
        "Airflow would reject the schedule, or the pipeline would never run.",
        'Write a preset such as `"@daily"`, or five cron fields in UTC, and valid calendar dates.',
    ),
    "schema-clash": Rule(
        "Tables that are written to a schema with other content replace the tables there.",
        "Use one schema for staging tables and another one for marts, and nothing else in them.",
    ),
    "unsafe-mode": Rule(
        "A table that is loaded in this way would lose rows, miss rows, or get rows twice.",
        "Choose a mode that fits: replace for whole tables, merge or append with `incremental`;"
        " merge needs a key.",
    ),
    "deletes-mode": Rule(
        "Rows that are deleted from the source are found by comparing primary keys, in a table that"
        " is merged. An appended table may have several rows of one key, and a replaced one loses"
        " deleted rows anyway.",
        "Merge the table, or cancel `deletes` for it with null.",
    ),
    "column-conflict": Rule(
        "The primary key and the cursor must reach the warehouse, and only one list can decide"
        " which other columns do.",
        "Use either include or exclude, and make sure that the primary key and the cursor are"
        " loaded.",
    ),
    "one-table-only": Rule(
        "A primary key and columns belong to one table. They cannot be true of all tables that a"
        " pattern matches.",
        "Add a separate entry for the table that needs them; it takes precedence over the pattern.",
    ),
    "freshness": Rule(
        "A limit that cannot be kept is an alarm in every run, and people stop reading it.",
        "Make fail longer than warn, and longer than the time between two runs.",
    ),
    "no-effect": Rule(
        "A setting without an effect misleads everyone who reads the file.",
        "Remove it, or add what it needs.",
    ),
    "sql-file": Rule(
        "Each transform is built from the file sql/<name>.sql in the pipeline's folder, and each"
        " such file must belong to a transform.",
        "Create, fill, rename or delete the file.",
    ),
    "sql-syntax": Rule(
        "The tables that a transform reads, and so when it runs, are inferred from its SQL. So"
        " the SQL must be readable.",
        "Correct the SQL. In a script, text that only the server understands can go into a DO"
        " block.",
    ),
    "sql-not-select": Rule(
        "A table, view or merge is built from the rows of one SELECT.",
        "Write one SELECT, or set `materialized: script`.",
    ),
    "sql-script": Rule(
        "Loadsheet runs a script in one transaction, together with the script's record in the"
        " ledger.",
        "Remove COMMIT, ROLLBACK and other statements that begin or end a transaction or cannot"
        " run inside one.",
    ),
    "unknown-parameter": Rule(
        "Only known parameters get a value. Any other one would reach the server unchanged and"
        " fail there.",
        "Use one of the known parameters.",
    ),
    "unknown-table": Rule(
        "A transform that reads a table that no pipeline loads or builds fails when it runs, or"
        " reads outdated rows.",
        "Correct the name, add the table to `tables`, or list it under `external` if it is"
        " created elsewhere.",
    ),
    "unknown-column": Rule(
        "The transform would fail when it runs: the columns of the table are known, and this is"
        " not one of them.",
        "Correct the name, or load the column: see `columns` of the table.",
    ),
    "duplicate-column": Rule(
        "A table or view cannot have two columns of the same name, so the transform would fail"
        " when it runs.",
        "Rename one of them with AS, or leave it out.",
    ),
    "sql-cycle": Rule(
        "Transforms that read each other in a circle, and a transform that reads itself, have no"
        " order in which they can run.",
        "Remove one of the reads, or combine the transforms into one.",
    ),
    "test-file": Rule(
        "A test that gives or expects something that the pipeline does not have fails although"
        " its SQL is correct.",
        "Write the test as docs/testing.md shows; `loadsheet test` runs it.",
    ),
    "duplicate-pipeline": Rule(
        "A pipeline's name is its DAG id. Airflow can run only one of two pipelines with the same"
        " name.",
        "Give each pipeline its own name.",
    ),
    "duplicate-target": Rule(
        "Two pipelines that write the same table overwrite each other's rows on each run.",
        "Load the table once. In the other pipeline, list it under `external`, or under the"
        " pattern's `exclude` where a pattern matches it; or give one of the pipelines another"
        " schema.",
    ),
    "unknown-connection": Rule(
        "The project's connections/ folder defines which connections exist. A task that uses"
        " another one fails.",
        "Correct the id, add it to connections/connections.yml, or set AIRFLOW_CONN_<ID> where"
        " `check` runs. Where a secrets backend holds it, set AIRFLOW__SECRETS__BACKEND there or"
        " in `.env`, as for Airflow.",
    ),
    "unknown-pool": Rule(
        "Tasks in a pool that does not exist wait forever. In a DAG bundle it is an import error.",
        "Correct the name, or add the pool to connections/pools.json.",
    ),
}

DOCS = "docs/rules.md"
KEYS = "docs/spec.md"
TESTING = "docs/testing.md"

_ENTRY = re.compile(r'(tables|transforms)\.(?:"(?:[^"\\]|\\.)*"|[\w-]+…?)(?:\.(\w+))?')
_NESTED_KEYS = {
    "tables": ("incremental", "columns", "schema_contract", "deletes", "fresh_within"),
    "transforms": ("fresh_within",),
}
_SECTIONS = ("schedule", "source", "lake", "warehouse", "notify", "tasks")


def links(code: str, path: str) -> tuple[str, ...]:
    """The pages about a problem: the section of the rule `code`, and that of the keys around
    `path`."""
    pages: list[str] = []
    if code:
        pages.append(f"{DOCS}#{code}")
    if path and code == "test-file":
        pages.append(TESTING)
    elif path:
        pages.append(f"{KEYS}#{_keys_section(path)}")
    return tuple(pages)


def _keys_section(path: str) -> str:
    """The section of docs/spec.md about the keys around `path`."""
    top = path.split(".")[0].split("[")[0]
    if top in _SECTIONS:
        return top
    if top == "defaults":
        # `defaults` takes the keys of a table.
        path = path.replace("defaults", "tables.all", 1)
    entry = _ENTRY.match(path)
    if entry is None:
        return "top-level"
    kind, key = entry.groups()
    nested = key if key in _NESTED_KEYS[kind] else ""
    return f"{kind}name{nested}"
