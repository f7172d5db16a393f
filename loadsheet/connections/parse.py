"""Connections as text: URIs and JSON objects, with `${VAR}` filled in.

The functions raise InputError if the text is not a connection. A message names where the text is
and never quotes it: the invalid part of a URI is often a password with an unencoded character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from loadsheet.errors import InputError

_REFERENCE = re.compile(r"\$\{(\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


class MissingVariable(Exception):
    """`variable` has no value, and `key` needs it."""

    def __init__(self, variable: str, key: str, advice: str):
        self.variable, self.key = variable, key
        super().__init__(f"{variable} is not set" + (f" ({advice})" if advice else ""))


def missing_variables(value: Any, variables: Mapping[str, str]) -> list[MissingVariable]:
    """What `fill` would raise, for each variable once and in the order of their use."""
    missing: list[MissingVariable] = []

    def note(text: str, key: str) -> None:
        for reference in _REFERENCE.finditer(text):
            is_needed = reference["kind"] != "-" and not variables.get(reference[1])
            if is_needed and reference[1] not in [found.variable for found in missing]:
                missing.append(MissingVariable(reference[1], key, reference["text"] or ""))

    def walk(item: Any, key: str) -> None:
        if isinstance(item, Mapping):
            for name, inner in item.items():
                walk(inner, f"{key}.{name}" if key else str(name))
        elif isinstance(item, list):
            for inner in item:
                walk(inner, key)
        elif isinstance(item, str):
            note(item, key)

    walk(value, "")
    return missing


def fill(value: Any, variables: Mapping[str, str], key: str = "") -> Any:
    """`value` with the `${VAR}`, `${VAR:-default}` and `${VAR:?advice}` in its texts, at any depth,
    replaced.

    A variable that is empty counts as not set, as in an `.env` copied from its example and not
    filled in; `${VAR:-}` allows an empty value. References in a variable's value are not replaced.
    Raises MissingVariable.
    """
    if isinstance(value, Mapping):
        prefix = f"{key}." if key else ""
        return {name: fill(item, variables, f"{prefix}{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables, key) for item in value]
    if isinstance(value, str):
        return _fill_text(value, variables, key)
    return value


def _fill_text(text: str, variables: Mapping[str, str], key: str) -> str:
    def replace(reference: re.Match[str]) -> str:
        value = variables.get(reference[1])
        if value:
            return value
        if reference["kind"] == "-":
            return reference["text"]
        raise MissingVariable(reference[1], key, reference["text"] or "")

    return _REFERENCE.sub(replace, text)


TEXT_FIELDS = ("conn_type", "host", "login", "password", "schema")
EXTRA_FIELDS = ("extra", "extra_dejson")
IGNORED_FIELDS = ("conn_id", "description", "team_name")
BOTH_EXTRAS = "extra and extra_dejson are the same: remove one of the two"
PORT = "a whole number from 1 to 65535"


def fields_from_uri(uri: str, where: str) -> dict[str, Any]:
    """`conn_type://login:password@host:port/schema?key=value` (or `?__extra__=<json>`), parts
    percent-encoded.

    The host may have its own protocol: `http://https://host` is `conn_type` http and host
    `https://host`. As libpq's, a URI may name several hosts (`host:port,host:port`): different
    ports go into the extra `port`, because a connection has only one.
    """
    try:
        parts, protocol = _split(uri)
        conn_type = _conn_type(urlsplit(uri).scheme)
        extra = _extra_of_query(parts.query, where)
        if conn_type == "postgres" and "," in parts.netloc.rpartition("@")[2]:
            host, port = _several_hosts(parts, extra)
        else:
            host, port = _host(parts), parts.port
        if protocol and host:
            host = f"{protocol}://{host}"
        return {
            "conn_type": conn_type,
            "host": host,
            "login": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "schema": unquote(parts.path[1:]),
            "port": port,
            "extra": extra,
        }
    # Without its cause: urllib quotes an invalid port, which may be part of a password.
    except ValueError:
        raise InputError(
            f"{where} is not a connection URI: expected"
            " conn_type://login:password@host:port/schema, with special characters of the login"
            " and the password percent-encoded"
        ) from None


def fields_from_json(text: str, where: str) -> dict[str, Any]:
    """A JSON object with the same keys as a mapping in connections.yml."""
    return fields_from_mapping(_json_object(text, where), where)


def fields_from_mapping(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`conn_type`, `host`, `port`, `login`, `password`, `schema` and `extra` (an object or its JSON
    text), or `uri`."""
    if not isinstance(values, Mapping):
        raise InputError(
            f"{where}: expected the connection's fields, such as `host: localhost`, or a URI"
        )
    given = {}
    for name, value in values.items():
        if value is not None and name not in IGNORED_FIELDS:
            given[name] = value
    if given.keys() == {"uri"}:
        return fields_from_uri(str(given["uri"]), where)
    if "uri" in given:
        raise InputError(f"{where}: uri is the whole connection: remove the other fields, or uri")
    unknown = sorted(map(str, given.keys() - {*TEXT_FIELDS, "port", *EXTRA_FIELDS}))
    if unknown:
        raise InputError(
            f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(TEXT_FIELDS)}, port"
            " and extra"
        )
    fields = {}
    for name in TEXT_FIELDS:
        value = given.get(name, "")
        if isinstance(value, (Mapping, list, bool)):
            raise InputError(f"{where}: {name} must be text")
        fields[name] = str(value)
    port = given.get("port", "")
    if isinstance(port, bool) or not is_port(str(port)):
        raise InputError(f"{where}: port must be {PORT}")
    extras = [given[name] for name in EXTRA_FIELDS if name in given]
    if len(extras) > 1:
        raise InputError(f"{where}: {BOTH_EXTRAS}")
    return {
        **fields,
        "conn_type": _conn_type(fields["conn_type"]),
        "port": int(port) if port else None,
        "extra": _extra(extras[0] if extras else None, where),
    }


def is_port(text: str) -> bool:
    """Whether it is the number of a port, or empty."""
    return not text or (re.fullmatch("[1-9][0-9]{0,4}", text) is not None and int(text) < 65536)


def _split(uri: str) -> tuple[SplitResult, str]:
    """The parts of `uri` without its conn_type, and the host's own protocol (empty if it has
    none)."""
    schemes = uri.count("://")
    if schemes not in (1, 2):
        raise ValueError
    has_protocol = schemes == 2
    # urlsplit reads the rest: `https://host` with a protocol, otherwise `//host`.
    rest = uri.replace(f"{urlsplit(uri).scheme}://", "" if has_protocol else "//")
    # `postgres://user:pass://word@host`: the second `://` is in the password.
    if has_protocol and set("@:") & set(rest.split("://", 1)[0]):
        raise ValueError
    parts = urlsplit(rest)
    if _is_cut_in_password(parts):
        raise ValueError
    return parts, parts.scheme if has_protocol else ""


def _is_cut_in_password(parts: SplitResult) -> bool:
    """Whether an unencoded `/`, `?` or `#` in the password has ended the URI's first part.

    The rest of the password, up to the `@`, would then be the database or an option, and its
    beginning the host or the port, which messages name.
    """
    if parts.fragment or "@" in parts.path:
        return True
    return any("@" in option and "=" not in option for option in parts.query.split("&"))


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "")
    if "/" not in host:
        return host
    # A path as host (a socket's folder): `hostname` would be in lower case.
    return unquote(parts.netloc.rsplit("@", 1)[-1].split(":", 1)[0])


def _several_hosts(parts: SplitResult, extra: dict[str, Any]) -> tuple[str, int | None]:
    """The hosts, with commas between them, and their port, if it is one. Different ports are added
    to `extra`. Raises ValueError."""
    hosts = []
    ports = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        host, colon, port = place.rpartition(":")
        if not colon or port.endswith("]"):  # an IPv6 address is in brackets
            host, port = place, ""
        if port and not port.isdecimal():
            raise ValueError
        hosts.append(unquote(host).strip("[]"))
        ports.append(port)
    # `h1,h2:5433` is one port for both, as Airflow reads it.
    if len(set(ports)) == 1 or not any(ports[:-1]):
        return ",".join(hosts), int(ports[-1]) if ports[-1] else None
    if "port" in extra:
        raise ValueError
    extra["port"] = ",".join(ports)
    return ",".join(hosts), None


def _conn_type(text: str) -> str:
    # As Airflow does.
    return "postgres" if text == "postgresql" else text.replace("-", "_")


def _extra_of_query(query: str, where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise InputError(f"{where}: the parameter {name!r} is given twice: remove one of them")
        options[name] = value
    # Airflow's option for extras that a query cannot hold, such as nested ones.
    if "__extra__" not in options:
        return options
    if len(options) > 1:
        raise InputError(f"{where}: with __extra__, the other parameters go into its JSON")
    return _extra(options["__extra__"], where)


def _extra(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, (str, type(None))):
        raise InputError(f"{where}: extra must be a mapping, or its JSON as text")
    return _json_object(value, f"{where}: extra") if value else {}


def _json_object(text: Any, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _once_each(pairs, where))
    except json.JSONDecodeError as error:
        # The reason and the place, never the text: it holds the password.
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where} is not valid JSON: {error.msg} at {place}") from None
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{where} is not valid JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a JSON object")
    return value


def _once_each(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The JSON object. JSON itself would silently take the last of two."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{where}: duplicate key {name!r}: remove one of the two")
        found[name] = value
    return found
