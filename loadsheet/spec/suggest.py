"""How values are shown in messages, and what a mistyped word or key probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from loadsheet.names import closest
from loadsheet.redact import mask_line, without_secrets

# What people who know another tool write for our keys and values.
_KEY_SYNONYMS = {
    "primary_key": (
        "pk key keys id id_column primary_keys primarykey unique_key unique_keys merge_key"
        " merge_keys"
    ),
    "unique_key": "pk key keys primary_key primary_keys unique_keys merge_key",
    "incremental": (
        "cursor cursor_field cursor_column incremental_column incremental_key incremental_by"
        " watermark watermark_column replication_key update_key updated_at bookmark delta"
    ),
    "cursor": "column field key cursor_field cursor_column incremental_column incremental_key",
    "by": "strategy type method",
    "initial_value": "start start_value initial start_from since",
    "mode": (
        "strategy write_disposition write_mode load_mode load_type write replication_method"
        " materialized"
    ),
    "materialized": "materialization materialised type kind mode",
    "columns": "select fields exclude_columns include_columns",
    "schema_contract": "contract drift evolution schema_evolution",
    "fill": "fill_columns backfill_columns new_columns",
    "tables": "streams resources sources entities",
    "transforms": "marts models transformations sql queries",
    "external": "externals external_tables external_models external_sources reads",
    "warehouse": "target destination dest sink dwh db output",
    "lake": "storage s3 minio stage object_store datalake data_lake",
    "source": "src from origin input",
    "notify": "on alert alerts slack notification notifications on_failure on_failure_callback",
    "events": "on when event",
    "slack_conn_id": "conn_id slack slack_conn slack_webhook_conn_id slack_api_conn_id",
    "channel": "slack_channel channel_id room",
    "digest_at": "digest_time digest_schedule daily_at send_at",
    "email_conn_id": "email mail smtp smtp_conn_id mail_conn_id",
    "to": "recipients recipient email_to emails addresses",
    "teams_conn_id": "teams msteams ms_teams msteams_conn_id",
    "pagerduty_conn_id": "pagerduty pager pagerduty_events_conn_id",
    "webhook_conn_id": "webhook http_conn_id webhook_url",
    "conn_id": "connection connection_id conn postgres_conn_id connection_name",
    "pipeline": "name dag_id dag id pipeline_name",
    "schedule": "cron schedule_interval timetable interval",
    "assets": "asset datasets dataset tables upstream after depends_on",
    "times": "cron timetable time schedule",
    "start_date": "start from_date",
    "catchup": "catch_up backfill",
    "defaults": "default default_args table_defaults",
    "timeout": "execution_timeout task_timeout",
    "retry_delay": "retry_wait retry_interval",
    "max_active_tasks": "concurrency parallelism parallel max_parallel",
    "granularity": "grouping task_per tasks_per",
    "mart_schema": "marts_schema transform_schema mart",
    "prefix": "path folder directory",
    "format": "file_format filetype type",
}
_VALUE_SYNONYMS = {
    "merge": "upsert update insert_update scd1 incremental delete_insert",
    "replace": (
        "truncate full overwrite full_refresh reload drop snapshot create_or_replace full_load"
    ),
    "append": "insert insert_only add append_only",
    "table": "replace full overwrite",
    "data_interval": "interval dates time",
    "watermark": "cursor max high_watermark bookmark",
    "csv": "text tsv json",
    "binary": "bin pgcopy",
    "parquet": "pq arrow orc avro columnar",
    "exclude": "skip ignore drop",
    "include": "keep",
    "fail": "error raise stop",
    "evolve": "allow add",
    "freeze": "strict forbid",
    "failure": "error failed on_failure fail failures errors",
    "recovery": "recovered on_success success recoveries resolved",
    "check": "checks test tests data_test quality assertion contract",
    "differs": "verify difference differences mismatch",
    "drift": "schema schema_change schema_drift columns",
    "broken_spec": "broken spec broken_file import_error",
    "digest": "summary daily daily_digest report",
}

CONNECTION_ID_HINT = (
    "define the connection in connections/connections.yml or AIRFLOW_CONN_<ID>, and write its id"
    " here"
)
_NO_SECRETS = (
    "this belongs to the connection, in connections/connections.yml or AIRFLOW_CONN_<ID>; a"
    " pipeline file holds only its id"
)
_NO_SPACE = re.compile(r"""([\w.-]+|"[^"]*"|'[^']*'):(?!//)([^\s:].*)""", re.DOTALL)
_CONNECTION_KEY = re.compile(
    "host|port|url|uri|dsn|user(name)?|login|pass(word|wd)?|token|db|dbname|database"
    "|(access|secret)(_.*)?|endpoint(_.*)?"
)

Schema = Mapping[str, Any]


def describe_value(value: Any) -> str:
    """The value for `expected ..., found ...`. A URI is named, never quoted: it may hold a
    password."""
    if value is None:
        return "nothing"
    # Before numbers: True is an int in Python.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {quote_value(value)}"
    if isinstance(value, str):
        return quote_value(value) if value.strip() else "empty text"
    kind = "list" if isinstance(value, list) else "mapping"
    return f"a {kind}" if value else f"an empty {kind}"


def quote_value(value: Any) -> str:
    """The value itself on one short line, without secrets."""
    if isinstance(value, str) and "://" in value:
        return "a connection URI"
    text = str(value)
    # Cut before it is searched for secrets: a value may be as long as a file.
    if isinstance(value, str):
        text = repr(without_secrets(value[:200]))
    if len(text) > 60:
        text = f"{text[:56]}…{text[-1]}"
    return text


def meant_value(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed value that `word` is a typo of, or another tool's name for."""
    return _meant(word, allowed, _VALUE_SYNONYMS)


def _meant(word: str, allowed: Iterable[str], synonyms: dict[str, str]) -> str | None:
    # First what is only spelled in another style, then another tool's word, then a typo.
    names = list(allowed)
    snake_case = _snake_case(word)
    if snake_case in names:
        return snake_case
    for name in names:
        if snake_case in synonyms.get(name, "").split():
            return name
    return closest(snake_case, names)


def _snake_case(word: str) -> str:
    """`primaryKey`, `Primary-Key` and `primary key` are all `primary_key`."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word.strip())
    return re.sub(r"[\s-]+", "_", separated).lower().strip("@")


def hint_for_key(root: Schema, key: str, here: Schema) -> str:
    """What the unknown `key` probably meant or where it belongs, and which keys the mapping `here`
    allows. `root` is the whole schema."""
    allowed = here["properties"]
    choice = f"allowed here: {', '.join(allowed)}"
    spaced = _space_hint(key)
    if spaced:
        return f"{spaced}; {choice}"
    # First of all: a secret that is moved to the right key is still in the file.
    if is_of_a_connection(key):
        return _NO_SECRETS
    parents = []
    for name, child in allowed.items():
        definition = root["$defs"].get(str(child.get("$ref", "")).rpartition("/")[2], {})
        if key in {**definition, **child}.get("properties", {}):
            parents.append(name)
    if parents:
        return f"it belongs under {' or '.join(parents)}; {choice}"
    meant = _meant(key, allowed, _KEY_SYNONYMS)
    if meant:
        return f"did you mean {meant!r}? {choice}"
    if key in root["properties"]:
        return f"it belongs at the top level; {choice}"
    if len(allowed) <= 3 and "examples" in here:
        choice += f"; for example {_example(here['examples'][0])}"
    return choice


def is_of_a_connection(key: str) -> bool:
    """Whether `key` says where a server is or how to log in, which a pipeline file must not
    contain."""
    return _CONNECTION_KEY.fullmatch(key.lower()) is not None


def hint_for_missing(key: str, subschema: Schema) -> str:
    """The line to add, by the schema's own example."""
    return f"add `{key}: {_example(subschema['examples'][0])}`"


def hint_for_value(subschema: Schema, value: Any) -> str:
    """How to write the value so that it is what the schema expects; empty where there is nothing to
    suggest."""
    title = str(subschema.get("title", ""))
    types = subschema.get("type", ())
    if "connection" in title and isinstance(value, str) and ("://" in value or "@" in value):
        return CONNECTION_ID_HINT
    if "duration" in title:
        return _duration_hint(value)
    one_per_key = re.search(r"one key per (\w+)", title)
    if one_per_key:
        return _key_hint(one_per_key[1], value)
    if isinstance(value, str):
        text_hint = _hint_for_text(subschema, value)
        if text_hint:
            return text_hint
    if set(subschema.get("properties", ())) == {"include", "exclude"} and _is_list_of_text(value):
        names = _example(value)
        return (
            f"to load only these, {{include: {names}}}; to load all but these, {{exclude: {names}}}"
        )
    if "array" in types and "string" not in types and isinstance(value, str):
        return f"write a list: [{value}]"
    if "string" in types and isinstance(value, int | float) and not isinstance(value, bool):
        return f'quote it: "{value}"'
    if "string" not in types and isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return "write it without quotes"
    if subschema.keys() >= {"examples", "type"}:
        return f"for example {_example(subschema['examples'][-1])}"
    return ""


def _key_hint(noun: str, value: Any) -> str:
    """How entries are written that were given as a list, or as text."""
    name = "bookings"
    if isinstance(value, list) and value:
        first = value[0]
        name = next(iter(first), name) if isinstance(first, dict) else first
    elif isinstance(value, str):
        spaced = _space_hint(value)
        if spaced:
            return spaced
        name = value.split()[0].rstrip(";,=") if value.split() else name
    if not isinstance(name, str) or not re.fullmatch(r"[\w.*?-]{1,60}", name):
        name = "bookings"
    return f"write each {noun} as a key, `{name}:`, not as text or a list entry, `- {name}`"


def _hint_for_text(subschema: Schema, value: str) -> str:
    """What text meant in the place of a mapping, a number or a truth value; empty where that is
    not known."""
    types = subschema.get("type", ())
    properties = subschema.get("properties", {})
    if "boolean" in types and value.lower() in ("true", "false"):
        return f"write it without quotes: {value.lower()}"
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)
    if "number" in types and percent:
        return f"write it as a share: {float(percent[1]) / 100:g}"
    if not properties:
        return ""
    spaced = _space_hint(value)
    if spaced:
        return spaced
    for key in ("conn_id", "slack_conn_id"):
        if key in properties and re.fullmatch(r"[\w.-]{1,60}", value):
            return f"write {{{key}: {value}}}"
    # Not the text itself: it may be as long as a file.
    mode = meant_value(value, _VALUE_SYNONYMS) if len(value) <= 40 else None
    if "mode" in properties and mode in ("merge", "replace", "append"):
        return f"write {{mode: {mode}}}"
    return ""


def _is_list_of_text(value: Any) -> bool:
    """Whether it is a list short enough to be repeated in a hint, of what may be columns."""
    if not isinstance(value, list) or not 1 <= len(value) <= 10:
        return False
    return all(isinstance(name, str) and re.fullmatch(r"\w{1,60}", name) for name in value)


def _space_hint(text: str) -> str:
    spaced = with_space(text)
    return f"put a space after the ':', `{spaced}`" if spaced else ""


def with_space(text: str) -> str:
    """`key: value` where `text` is `key:value`; else empty."""
    match = _NO_SPACE.fullmatch(text)
    if not match or len(text) > 200:
        return ""
    value = match[2]
    if value[0] in "@*&%`!":  # YAML would refuse it
        value = f'"{value}"'
    spaced = f"{match[1]}: {value}"
    return spaced if mask_line(spaced) == spaced else ""


def _duration_hint(value: Any) -> str:
    if isinstance(value, int) and value > 0 and value is not True:  # True is an int in Python
        return f"add a unit: {value}s, {value}m, {value}h or {value}d"
    if isinstance(value, str):
        match = re.fullmatch(r"\s*0*([1-9]\d*)\s*([smhd])[a-z]*\s*", value.lower())
        if match:
            return f"did you mean {match[1]}{match[2]}?"
    return "write one number and one unit: s, m, h or d"


def _example(value: Any) -> str:
    """A value as people write it on one line of YAML."""
    if isinstance(value, dict):
        pairs = [f"{key}: {_example(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_example, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z][\w-]*|\d+[smhd]", value):
        return f'"{value}"'
    return str(value)
