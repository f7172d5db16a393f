"""How the lake is reached: certificates of a company, a proxy, and keys that another service
gives."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from demo.servers import S3Server
from loadsheet.connections.lookup import Connection
from loadsheet.connections.s3 import s3_settings
from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import Refused
from loadsheet.lake.credentials import provider
from loadsheet.lake.failure import LakeFailed
from loadsheet.lake.http import pool
from loadsheet.lake.store import Lake
from tests.authority import Authority
from tests.faults.unruly import Unruly

ROLE = "arn:aws:iam::123456789012:role/lake"


def works(lake: Lake) -> bool:
    """Whether an object comes back."""
    lake.create_bucket("shop/")
    lake.put("shop/x", b"content")
    return lake.get("shop/x", 99) == b"content"


# Certificates.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company's own authority (ca.pem), and certificates of it: for 127.0.0.1, and for another
    host."""
    company = Authority(tmp_path_factory.mktemp("authority"))
    company.issue("lake", "IP:127.0.0.1")
    company.issue("other", "DNS:lake.example.com")
    return company.folder


@pytest.fixture
def encrypted(s3: S3Server, authority: Path) -> Iterator[Any]:
    """Makes a lake behind TLS, whose connection has the given extras."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "lake.pem", authority / "lake.key")
    with Unruly(s3, context) as front:

        def lake(**extra: Any) -> Lake:
            connection = Connection(
                conn_id="lake",
                login=s3.access_key,
                password=s3.secret_key,
                extra={"endpoint_url": f"https://127.0.0.1:{front.port}", **extra},
            )
            return Lake(connection, "encrypted")

        yield lake


def test_a_company_s_own_certificates_are_trusted_where_they_are_named(
    encrypted: Any, authority: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Before, `verify` was dropped, and only SSL_CERT_FILE worked."""
    for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(LakeFailed) as refused:
        works(encrypted())
    found = diagnose(refused.value)
    assert found and not found.cause.retryable and "name the file of its authority" in str(found)
    file = str(authority / "ca.pem")
    assert works(encrypted(verify=file))
    for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, file)
            assert works(encrypted())
    assert "not checked" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert works(encrypted(verify=False))
    assert "the lake's certificate is not checked" in caplog.text


def test_a_certificate_of_another_host_is_refused(s3: S3Server, authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "other.pem", authority / "other.key")
    with Unruly(s3, context) as front:
        extra = {
            "endpoint_url": f"https://127.0.0.1:{front.port}",
            "verify": str(authority / "ca.pem"),
        }
        keys = {"login": s3.access_key, "password": s3.secret_key}
        with pytest.raises(LakeFailed) as refused:
            works(Lake(Connection(conn_id="lake", extra=extra, **keys), "encrypted"))
        found = diagnose(refused.value)
        assert found and not found.cause.retryable


# A proxy.


def test_requests_go_through_the_proxy_of_the_environment(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Unruly(s3) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:hidden@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        lake = Lake(
            Connection(
                conn_id="lake",
                login=s3.access_key,
                password=s3.secret_key,
                extra={"endpoint_url": "http://lake.invalid:9000"},
            ),
            "through",
        )
        assert works(lake)
        assert all(path.startswith("http://lake.invalid:9000/") for _, path in proxy.requests)


# Keys that a service gives.


@dataclass
class Services:
    """An STS server and a container's keys on 127.0.0.1: both give the keys of `s3`."""

    s3: S3Server
    status: int = 200
    asked: list[tuple[dict[str, list[str]], dict[str, str]]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def services(s3: S3Server) -> Iterator[Services]:
    found = Services(s3)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            query = parse_qs(body or urlsplit(self.path).query)
            found.asked.append((query, {k.lower(): v for k, v in self.headers.items()}))
            keys = (
                f"<AccessKeyId>{s3.access_key}</AccessKeyId>"
                f"<SecretAccessKey>{s3.secret_key}</SecretAccessKey>"
                "<SessionToken>a-session-token</SessionToken>"
                "<Expiration>2099-01-01T00:00:00Z</Expiration>"
            )
            action = query["Action"][0]
            answer = f"<R><{action}Result><Credentials>{keys}</Credentials></{action}Result></R>"
            if found.status != 200:
                answer = "<R><Error><Code>AccessDenied</Code><Message>not you</Message></Error></R>"
            self._answer(answer.encode())

        def do_GET(self) -> None:
            keys = (
                f'{{"AccessKeyId": "{s3.access_key}", "SecretAccessKey": "{s3.secret_key}",'
                ' "Token": "of-the-container", "Expiration": "2099-01-01T00:00:00Z"}'
            )
            self._answer(keys.encode())

        def _answer(self, data: bytes) -> None:
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()


def with_role(services: Services, **extra: Any) -> Connection:
    return Connection(
        conn_id="lake",
        login="of-the-connection",
        password="secret-of-the-connection",
        extra={
            "endpoint_url": services.s3.endpoint,
            "role_arn": ROLE,
            "service_config": {"sts": {"endpoint_url": services.url}},
            **extra,
        },
    )


def test_a_role_is_assumed_before_the_first_request(services: Services) -> None:
    arguments = {"ExternalId": "x", "RoleSessionName": "us", "DurationSeconds": 7200}
    token = {"aws_session_token": "of-the-connection", "assume_role_kwargs": arguments}
    assert works(Lake(with_role(services, **token), "role"))
    [(asked, headers)] = services.asked  # once, not for every request
    said = {name: value for name, [value] in asked.items()}
    assert (said["Action"], said["RoleArn"]) == ("AssumeRole", ROLE)
    assert {name: said[name] for name in arguments} == {**arguments, "DurationSeconds": "7200"}
    # Temporary keys may assume a role, too: the SDK's own provider leaves out their token.
    assert headers["x-amz-security-token"] == "of-the-connection"
    assert "x-amz-security-token" in headers["authorization"]


def test_a_role_that_is_refused_is_named(services: Services) -> None:
    services.status = 403
    with pytest.raises(Refused, match=f"the role {ROLE} gives no keys: not you"):
        Lake(with_role(services), "role").exists("shop/")


def test_a_web_identity_assumes_the_role(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("a-web-identity-token\n")
    method = {
        "assume_role_method": "assume_role_with_web_identity",
        "assume_role_with_web_identity_token_file": str(file),
    }
    lake = Lake(with_role(services, **method), "identity")
    assert works(lake)
    [(asked, _)] = services.asked
    assert asked["Action"] == ["AssumeRoleWithWebIdentity"]
    assert asked["WebIdentityToken"] == ["a-web-identity-token"] and asked["RoleArn"] == [ROLE]
    services.status = 403
    with pytest.raises(Refused) as refused:
        Lake(with_role(services, **method), "identity").exists("shop/")
    assert "a-web-identity-token" not in str(refused.value) and ROLE in str(refused.value)


def test_a_container_s_keys_are_asked_for_where_there_are_no_others(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{services.url}/keys")
    settings = s3_settings(Connection(conn_id="lake", conn_type="aws"))
    keys = provider(settings, pool(settings)).retrieve()
    assert (keys.access_key, keys.session_token) == (services.s3.access_key, "of-the-container")
