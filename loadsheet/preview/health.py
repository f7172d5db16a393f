"""What `loadsheet doctor` finds about one server: its version, TLS, clock and latency, and what is
wrong with it."""

from __future__ import annotations

import ipaddress
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from loadsheet.connections.lookup import Connection, Connections
from loadsheet.connections.s3 import s3_settings
from loadsheet.deadline import limited
from loadsheet.engine.preflight import Place, refusal_of
from loadsheet.libpq import set_parameters
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.preview.models import Remark, Severity

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake

_LONGEST = timedelta(seconds=15)
_ROUNDS = 3
_CLOCK_SECONDS = 60.0
_OLDEST_WAREHOUSE = 140000
_CHECKED = ("verify-ca", "verify-full")
_FACTS = """
SELECT current_user::text, current_database()::text, pg_is_in_recovery(),
    current_setting('default_transaction_read_only') = 'on',
    (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid())
"""


@dataclass(kw_only=True)
class Health:
    """One server. A text is empty, and a number None, where it is not known."""

    place: Place
    server: str = ""
    """Its address, and the database or the bucket."""
    role: str = ""
    version: str = ""
    tls: str = ""
    latency_ms: float | None = None
    clock_seconds: float | None = None
    """How far its clock is ahead of this machine's."""
    refusal: str = ""
    """Why it cannot be examined, in a few words."""
    remarks: list[Remark] = field(default_factory=list)

    def add(self, severity: Severity, code: str, message: str, fix: str = "") -> None:
        """Add what is wrong, and the line that mends it."""
        self.remarks.append(Remark(severity=severity, code=code, message=message, fix=fix))

    @property
    def answers(self) -> bool:
        """Whether it answers and accepts the login."""
        return not any(remark.code in ("connection", "unreachable") for remark in self.remarks)


def examine(place: Place, connections: Connections) -> Health:
    """The health of one server, within seconds. In the lake, one object below the prefix is
    written, read and removed; nothing else is changed."""
    health = Health(place=place)
    try:
        # Not within the limit, which is the server's: to ask Airflow means to import it.
        connection = connections(place.conn_id)
        with limited(f"examining {place}", _LONGEST):
            if place.end == "lake":
                _examine_lake(health, connection)
            else:
                _examine_database(health, connection)
    except Exception as error:
        refusal = refusal_of(place, error)
        if refusal is None:
            raise
        health.refusal = refusal.short
        health.add("error", "connection" if refusal.is_input else "unreachable", refusal.text)
    return health


def _examine_database(health: Health, connection: Connection) -> None:
    connect = connect_source if health.place.end == "source" else connect_warehouse
    with connect(connection) as session:
        session.pin({"statement_timeout": "5s"}, read_only=True)
        row = session.execute(_FACTS).fetchone()
        assert row
        health.role, database, standby, only_reads, tls_version = row
        health.server = f"{session.info.host}:{session.info.port}/{database}"
        health.version = session.info.parameter_status("server_version") or ""
        _add_tls(health, session, tls_version or "")
        _add_times(health, session)
        session.prove_transactions()
        if health.place.end == "warehouse":
            _add_writing(health, standby, only_reads)
            if session.info.server_version < _OLDEST_WAREHOUSE:
                health.add("error", "version", "the warehouse needs PostgreSQL 14 or newer")


def _add_tls(health: Health, session: PinnedSession, version: str) -> None:
    options = set_parameters(session.pgconn.info)
    mode = options.get("sslmode", "prefer")
    if session.pgconn.ssl_in_use:
        health.tls = f"{version or 'TLS'}, sslmode={mode}"
    else:
        health.tls = "none"
    if _is_local(session.info.host, options.get("hostaddr", "")):
        return
    if health.tls == "none":
        health.add(
            "warning",
            "tls",
            "the connection is not encrypted: passwords and rows can be read on the way",
            f'extra of connection {health.place.conn_id}: "sslmode": "verify-full"',
        )
    elif mode not in _CHECKED:
        health.add(
            "note",
            "tls",
            "the connection is encrypted, but the server's certificate is not checked",
            f"extra of connection {health.place.conn_id}:"
            ' "sslmode": "verify-full", "sslrootcert": "<file of the CA, or system>"',
        )


def _is_local(host: str, address: str) -> bool:
    if host.startswith("/"):  # a socket
        return True
    try:
        return ipaddress.ip_address(address or host).is_loopback
    except ValueError:
        return host == "localhost"


def _add_times(health: Health, session: PinnedSession) -> None:
    """The fastest of some round trips, and the clock in its middle."""
    for _ in range(_ROUNDS):
        sent = datetime.now(UTC)
        began = time.perf_counter()
        row = session.execute("SELECT clock_timestamp()").fetchone()
        took = time.perf_counter() - began
        assert row
        if health.latency_ms is None or took * 1000 < health.latency_ms:
            health.latency_ms = took * 1000
            middle = sent + timedelta(seconds=took / 2)
            health.clock_seconds = (row[0] - middle).total_seconds()
    _add_clock(health)


def _add_clock(health: Health) -> None:
    difference = health.clock_seconds or 0.0
    if abs(difference) > _CLOCK_SECONDS:
        way = "ahead of" if difference > 0 else "behind"
        message = f"its clock is {abs(difference):,.0f} s {way} the clock of this machine"
        health.add("warning", "clock", message, "synchronize both clocks (NTP)")


def _add_writing(health: Health, standby: bool, only_reads: bool) -> None:
    if standby:
        health.add(
            "error",
            "read-only",
            "the warehouse is a standby, which cannot be written to",
            "point the connection at the primary; with several hosts, extra:"
            ' "target_session_attrs": "read-write"',
        )
    elif only_reads:
        health.add(
            "error",
            "read-only",
            "default_transaction_read_only is on",
            f"ALTER ROLE {health.role} SET default_transaction_read_only = off;",
        )


def _examine_lake(health: Health, connection: Connection) -> None:
    # The S3 client takes 60 ms to import.
    from loadsheet.lake.store import Lake

    lake = Lake(connection, health.place.bucket)
    settings = s3_settings(connection)
    endpoint = "AWS" if settings.is_aws else settings.endpoint.geturl()
    health.server = f"{endpoint}, bucket {health.place.bucket}"
    health.tls = "none" if settings.endpoint.scheme == "http" else "TLS"
    began = time.perf_counter()
    exists = lake.exists(health.place.prefix)
    health.latency_ms = (time.perf_counter() - began) * 1000
    if not exists:
        message = f"there is no bucket {health.place.bucket!r}; the first run creates it"
        health.add("note", "bucket", message)
        return
    _try_lake(health, lake, f"{health.place.prefix}doctor-{secrets.token_hex(8)}")


def _try_lake(health: Health, lake: Lake, name: str) -> None:
    """S3 cannot be asked for rights: they have to be tried."""
    data = b"written by loadsheet doctor, which removes it at once"
    actions: dict[str, Any] = {
        "write": lambda: lake.put(name, data),
        "read": lambda: lake.get(name, len(data)),
        "list": lambda: list(lake.listing(name)),
        "remove": lambda: lake.remove(name),
    }
    for what, act in actions.items():
        try:
            answer = act()
        except Exception as error:
            refusal = refusal_of(health.place, error)
            if refusal is None:
                raise
            message = f"no right to {what} in bucket {lake.bucket!r}: {refusal.text}"
            health.add("error", "privilege", message)
            if what == "write":
                return
            continue
        if what == "list" and answer:
            _add_clock_of_lake(health, answer[0].modified)


def _add_clock_of_lake(health: Health, modified: datetime) -> None:
    """The time that the lake gave to an object a moment ago; it has whole seconds."""
    health.clock_seconds = (modified - datetime.now(UTC)).total_seconds()
    _add_clock(health)
