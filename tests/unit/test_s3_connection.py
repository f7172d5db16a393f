"""The lake's connection: every field is honoured as Airflow's AWS connection documents it, or
refused by name. Before, an unknown key and most known ones were dropped without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadsheet.connections.lookup import Connection
from loadsheet.connections.parse import fields_from_uri
from loadsheet.connections.s3 import S3Settings, s3_settings
from loadsheet.errors import ConnectionMissing
from loadsheet.lake.credentials import principal, provider
from loadsheet.lake.http import PATIENCE, Retry, pool
from loadsheet.lake.store import Lake

KEYS = {"login": "AKIAIOSFODNN7EXAMPLE", "password": "wJalrXUtnFEMI"}
MINIO = {"endpoint_url": "http://lake:9000"}
AWS = "https://s3.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::123456789012:role/lake"


def settings(environ: dict[str, str] | None = None, **fields: Any) -> S3Settings:
    given = {"conn_type": "generic", **KEYS, **fields}
    return s3_settings(Connection(conn_id="lake", **given), environ or {})


@pytest.mark.parametrize("conn_type", ["generic", "aws"])
@pytest.mark.parametrize(
    ("extra", "environ", "endpoint", "region"),
    [
        ({}, {}, AWS, "us-east-1"),
        (
            {"config_kwargs": "", "verify": ""},
            {},
            "https://s3.us-east-1.amazonaws.com",
            "us-east-1",
        ),
        ({"endpoint_url": ""}, {}, AWS, "us-east-1"),
        ({"region_name": "eu-west-1"}, {}, "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ({"region": "eu-west-1"}, {}, "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ({"region_name": "cn-north-1"}, {}, "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ({}, {"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        (
            {},
            {"AWS_DEFAULT_REGION": "eu-west-1"},
            "https://s3.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        (
            {"endpoint_url": "https://s3.eu-west-1.amazonaws.com/"},
            {},
            "https://s3.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        (
            {"endpoint_url": "https://s3.amazonaws.com"},
            {},
            "https://s3.amazonaws.com",
            "us-east-1",
        ),
        # The region of a machine at AWS is not that of another server.
        (MINIO, {"AWS_REGION": "eu-west-1"}, "http://lake:9000", "us-east-1"),
        (MINIO | {"region_name": "here"}, {}, "http://lake:9000", "here"),
        ({}, {"AWS_ENDPOINT_URL": "http://lake:9000"}, "http://lake:9000", "us-east-1"),
        (
            {},
            {"AWS_ENDPOINT_URL_S3": "http://s3:1", "AWS_ENDPOINT_URL": "http://lake:9000"},
            "http://s3:1",
            "us-east-1",
        ),
        (
            MINIO | {"service_config": {"s3": {"endpoint_url": "http://s3:1"}, "sns": {"x": 1}}},
            {},
            "http://s3:1",
            "us-east-1",
        ),
    ],
)
def test_where_the_lake_is(
    conn_type: str, extra: dict[str, Any], environ: dict[str, str], endpoint: str, region: str
) -> None:
    found = settings(environ, conn_type=conn_type, extra=extra)
    assert (found.endpoint.geturl(), found.region) == (endpoint, region)
    assert found.is_aws is ("amazonaws" in endpoint)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"conn_type": "postgres"}, "conn_type postgres is none: use generic or aws"),
        ({"host": "lake"}, "host and port are not used for an S3 server: set extra.endpoint_url"),
        ({"port": 9000}, "host and port are not used"),
        ({"schema": "bucket"}, "schema is not used: lake.bucket"),
        ({"password": ""}, "password is empty: the lake needs an access key and its secret key"),
        ({"login": ""}, "login is empty"),
        ({"extra": {"endpoint": "x"}}, "unknown key 'endpoint' in extra (did you mean endpoint_ur"),
        ({"extra": {"regionname": "x"}}, "did you mean region_name?"),
        ({"extra": {"zzz": 1}}, "unknown key 'zzz' in extra (known are endpoint_url, region_name"),
        (
            {"extra": {"config_kwargs": {"x": 1}}},
            "extra.config_kwargs is not supported",
        ),
        ({"extra": {"host": "x"}}, "extra.host is not supported: set extra.endpoint_url"),
        ({"extra": {"profile": "x"}}, "set extra.profile_name"),
        ({"extra": {"endpoint_url": "lake:9000"}}, "endpoint_url is not the address of a server"),
        ({"extra": {"endpoint_url": "http://lake:x"}}, "is not the address of a server"),
        ({"extra": {"endpoint_url": "http://a:b@lake"}}, "endpoint_url contains a login"),
        ({"extra": {"endpoint_url": "http://lake/s3"}}, "endpoint_url contains a path"),
        ({"extra": {"endpoint_url": "http://lake?x=1"}}, "endpoint_url contains a path"),
        ({"extra": {"region": "a", "region_name": "b"}}, "region_name and extra.region differ"),
        ({"extra": {"region_name": 1}}, "extra.region_name must be text"),
        ({"extra": {"verify": 1}}, "extra.verify must be true, false, or a file"),
        ({"extra": {"verify": "/nowhere"}}, "extra.verify names a file that does not exist"),
        ({"extra": {"service_config": {"s3": {"bucket_name": "x"}}}}, "key 'bucket_name' in extra"),
        ({"extra": {"service_config": {"s3": 1}}}, "service_config.s3 must be a mapping"),
        ({"extra": {"service_config": {"S3": {}}}}, "has 'S3': write 's3'"),
        ({"password": "wJalrXUtnFEMI\n"}, "password has a line break"),
        ({"extra": {"aws_session_token": "x\ud800"}}, "extra.aws_session_token has a line break"),
        ({"extra": {"role_arn": ROLE, **MINIO}}, "set extra.service_config.sts.endpoint_url"),
        ({"extra": {"assume_role_kwargs": {"ExternalId": "x"}}}, "needs extra.role_arn"),
        (
            {"extra": {"role_arn": ROLE, "assume_role_kwargs": {"ExternalID": "x"}}},
            "unknown key 'ExternalID' in extra.assume_role_kwargs (did you mean ExternalId?)",
        ),
        (
            {"extra": {"role_arn": ROLE, "assume_role_kwargs": {"DurationSeconds": 900}}},
            "DurationSeconds must be a number of at least 3600",
        ),
        (
            {"extra": {"role_arn": ROLE, "assume_role_method": "assume_role_with_saml"}},
            "assume_role_method assume_role_with_saml is not supported",
        ),
        (
            {"extra": {"role_arn": ROLE, "assume_role_method": "assume_role_with_web_identity"}},
            "needs extra.assume_role_with_web_identity_token_file",
        ),
        (
            {"login": "", "password": "", "extra": {"aws_session_token": "x"}},
            "aws_session_token needs login and password",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConnectionMissing) as refused:
        settings(**fields)
    assert str(refused.value).startswith("connection 'lake': ") and said in str(refused.value)


def test_what_the_sdk_refuses_is_no_bare_error() -> None:
    for extra in ({"region_name": "no region"}, {"endpoint_url": "https://x.amazonaws.com"}):
        with pytest.raises(ConnectionMissing, match="connection 'lake': invalid"):
            Lake(Connection(conn_id="lake", **KEYS, extra=extra), "lake")


def keys_of(
    found: S3Settings, environ: dict[str, str] | None = None
) -> tuple[str, str, str | None]:
    keys = provider(found, pool(found), environ or {}).retrieve()
    return keys.access_key, keys.secret_key, keys.session_token


def test_the_keys_come_from_the_connection_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    token = {"aws_session_token": "a-token"}
    assert keys_of(settings(extra=token)) == (KEYS["login"], KEYS["password"], "a-token")
    in_extra = {"aws_access_key_id": "in-extra", "aws_secret_access_key": "secret-extra"}
    assert keys_of(settings(login="", password="", extra=in_extra))[0] == "in-extra"
    # As in Airflow, login and password win.
    assert keys_of(settings(extra=in_extra))[0] == KEYS["login"]


def test_without_keys_they_come_from_the_environment_or_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"login": "", "password": "", "extra": MINIO}
    environ = {"AWS_ACCESS_KEY_ID": "env-key", "AWS_SECRET_ACCESS_KEY": "env-secret"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert keys_of(settings(**nothing), environ) == ("env-key", "env-secret", None)
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = ds\n"
        "[other]\naws_access_key_id = o\naws_secret_access_key = os\naws_session_token = t\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert keys_of(settings(**nothing), files) == ("d", "ds", None)
    named = {**nothing, "extra": MINIO | {"profile_name": "other"}}
    assert keys_of(settings(**named), {}) == ("o", "os", "t")
    missing = settings(**{**nothing, "extra": MINIO | {"profile_name": "none"}})
    with pytest.raises(Exception, match="the profile none gives no keys: access key does not ex"):
        keys_of(missing)
    # The keys of a machine at AWS are not shown to another server; one of AWS is asked elsewhere.
    with pytest.raises(ConnectionMissing, match="has no login and password"):
        keys_of(settings(**nothing), {"HOME": str(tmp_path)})


def test_the_principal_is_named_and_not_shown_whole() -> None:
    found = settings()
    assert principal(found, provider(found, pool(found), {})) == "access key AKIA...MPLE"
    short = settings(login="minioadmin")
    assert principal(short, provider(short, pool(short), {})) == "access key min..."


@pytest.mark.parametrize(
    ("extra", "environ", "verifies", "ca_file"),
    [
        ({}, {}, True, ""),
        ({"verify": True}, {}, True, ""),
        ({"verify": "true"}, {}, True, ""),
        ({"verify": False}, {}, False, ""),
        ({"verify": "False"}, {"AWS_CA_BUNDLE": __file__}, False, ""),
        ({"verify": __file__}, {}, True, __file__),
        ({}, {"AWS_CA_BUNDLE": __file__}, True, __file__),
    ],
)
def test_which_certificates_are_trusted(
    extra: dict[str, Any], environ: dict[str, str], verifies: bool, ca_file: str
) -> None:
    found = settings(environ, extra=extra)
    assert (found.verifies, found.ca_file) == (verifies, ca_file)


def test_a_file_without_certificates_is_named() -> None:
    with pytest.raises(ConnectionMissing, match="holds no certificates in PEM form"):
        pool(settings(extra={"verify": __file__}))


def test_the_uri_form_says_the_same() -> None:
    fields = fields_from_uri("aws://key:secret@/?region_name=eu-west-1&verify=false", "x")
    found = s3_settings(Connection(conn_id="lake", **fields), {})
    assert (found.region, found.verifies, found.access_key) == ("eu-west-1", False, "key")


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, None),
        ({"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "lake"}, None),
    ],
)
def test_a_proxy_is_used_where_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = pool(settings(extra=MINIO)).proxy
    assert (found.url if found else None) == proxy
    assert pool(settings(extra={"endpoint_url": "http://127.0.0.1:9000"})).proxy is None


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://user:hidden-word@proxy:1080")
    with pytest.raises(ConnectionMissing, match="HTTP_PROXY is not the address of an HTTP") as said:
        pool(settings(extra=MINIO))
    assert "hidden" not in str(said.value)


def test_an_overload_that_lasts_ends_in_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("loadsheet.lake.http.time.monotonic", lambda: now[0])
    retry = Retry(total=10, status_forcelist=[503], raise_on_status=False, retry_after_max=30)
    waited = 0.0
    tries = 0
    while not retry.is_exhausted():
        retry = retry.new(total=10)
        pause = retry.parse_retry_after("3600")
        now[0] += pause
        waited += pause
        tries += 1
    # Ten tries and a pause of 30 s for each would have been five minutes.
    assert (waited, tries) == (PATIENCE, 2)
