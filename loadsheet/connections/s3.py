"""The lake's connection: what its fields and extras mean, as Airflow's AWS connection documents
them. A setting that Loadsheet cannot honour is refused by name: it is never dropped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from loadsheet.connections.lookup import Connection
from loadsheet.errors import ConnectionMissing
from loadsheet.names import closest
from loadsheet.redact import on_one_line

_TYPES = ("", "generic", "aws", "s3", "minio")
_DEFAULT_REGION = "us-east-1"
_SHORTEST_ROLE_SECONDS = 3600

_EXTRAS = (
    "endpoint_url",
    "region_name",
    "region",
    "verify",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "profile_name",
    "role_arn",
    "assume_role_method",
    "assume_role_kwargs",
    "assume_role_with_web_identity_federation",
    "assume_role_with_web_identity_token_file",
    "service_config",
)
_ROLE_EXTRAS = tuple(name for name in _EXTRAS if name.startswith("assume_role"))
_ROLE_ARGUMENTS = ("RoleSessionName", "DurationSeconds", "ExternalId", "Policy")
# Extras of Airflow's AWS connection, now or in earlier versions, that cannot be honoured here.
_REFUSED = {
    "config_kwargs": "they configure botocore, which Loadsheet does not use; a proxy is set by"
    " HTTPS_PROXY, certificates by extra.verify",
    "botocore_kwargs": "they configure botocore, which Loadsheet does not use",
    "session_kwargs": "set aws_access_key_id, aws_secret_access_key, aws_session_token,"
    " region_name and profile_name directly in extra",
    "session_factory": "Loadsheet does not use boto3",
    "assume_role_with_saml": "Loadsheet does not assume roles with SAML",
    "s3_config_file": "set extra.profile_name, and AWS_SHARED_CREDENTIALS_FILE for another file",
    "s3_config_format": "set extra.profile_name",
    "profile": "set extra.profile_name",
    "host": "set extra.endpoint_url",
    "external_id": 'set extra.assume_role_kwargs to {"ExternalId": "..."}',
    "aws_account_id": "set extra.role_arn",
    "aws_iam_role": "set extra.role_arn",
    "bucket_name": "lake.bucket in the pipeline file names the bucket",
}


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role to assume before the first request."""

    arn: str
    session_name: str = "loadsheet"
    seconds: int = _SHORTEST_ROLE_SECONDS
    external_id: str = ""
    policy: str = ""
    token_file: str = ""
    """A file with a web identity's token; else the connection's credentials assume the role."""


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Where the lake is, and how to log in. `repr` leaves out the secrets."""

    conn_id: str
    endpoint: SplitResult
    is_aws: bool
    region: str
    sts_endpoint: str
    """Empty for servers other than AWS that have none configured."""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    profile: str = ""
    role: Role | None = None
    verifies: bool = True
    ca_file: str = ""
    """A file of certificates to trust; empty for those of the system."""

    @property
    def is_https(self) -> bool:
        """Whether requests are encrypted."""
        return self.endpoint.scheme == "https"


def s3_settings(connection: Connection, environ: Mapping[str, str] = os.environ) -> S3Settings:
    """What `connection` and the environment say. Raises ConnectionMissing, which names the field
    and never quotes a value that may be secret."""
    return _Reader(connection, environ).settings()


class _Reader:
    def __init__(self, connection: Connection, environ: Mapping[str, str]):
        self.connection = connection
        self.extra = connection.extra
        self.environ = environ

    def settings(self) -> S3Settings:
        self._refuse_what_is_not_used()
        services = self._services()
        endpoint = self._endpoint(services)
        region = self._region(endpoint)
        if endpoint is None:
            endpoint = urlsplit(_aws("s3", region))
        is_aws = _is_aws(endpoint)
        sts_endpoint = services.get("sts", "")
        if not sts_endpoint and is_aws:
            sts_endpoint = _aws("sts", region)
        verifies, ca_file = self._verify()
        access_key, secret_key = self._keys()
        return S3Settings(
            conn_id=self.connection.conn_id,
            endpoint=endpoint,
            is_aws=is_aws,
            region=region,
            sts_endpoint=sts_endpoint,
            access_key=access_key,
            secret_key=secret_key,
            session_token=self._text("aws_session_token"),
            profile=self._text("profile_name"),
            role=self._role(sts_endpoint),
            verifies=verifies,
            ca_file=ca_file,
        )

    def _refuse(self, what: str) -> NoReturn:
        raise ConnectionMissing(f"connection {self.connection.conn_id!r}: {what}")

    def _refuse_what_is_not_used(self) -> None:
        given = self.connection
        if given.conn_type not in _TYPES:
            self._refuse(
                f"the lake is an S3 server, and conn_type {on_one_line(given.conn_type)} is none:"
                " use generic or aws"
            )
        if given.host or given.port:
            self._refuse(
                "host and port are not used for an S3 server: set extra.endpoint_url, for example"
                " http://127.0.0.1:9000; leave all three out for AWS"
            )
        if given.schema:
            self._refuse("schema is not used: lake.bucket in the pipeline file names the bucket")
        for name, value in self.extra.items():
            # Airflow's form stores fields that were left empty.
            if name in _REFUSED and value in (None, "", {}):
                continue
            if name in _REFUSED:
                self._refuse(f"extra.{name} is not supported: {_REFUSED[name]}")
            if name not in _EXTRAS:
                self._refuse_unknown("extra", name, _EXTRAS)
        if not self._text("role_arn"):
            for name in _ROLE_EXTRAS:
                if self.extra.get(name):
                    self._refuse(f"extra.{name} needs extra.role_arn")

    def _refuse_unknown(self, where: str, name: object, known: tuple[str, ...]) -> NoReturn:
        meant = closest(str(name), known)
        hint = f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
        self._refuse(f"unknown key {on_one_line(str(name))!r} in {where} ({hint})")

    def _text(self, name: str) -> str:
        value = self.extra.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._refuse(f"extra.{name} must be text")
        return self._printable(f"extra.{name}", value)

    def _printable(self, name: str, value: str) -> str:
        """`value`, which goes into headers of HTTP. A file with a secret often ends in a line
        break."""
        if not value.isprintable():
            self._refuse(f"{name} has a line break or another character that HTTP cannot send")
        return value

    def _mapping(self, name: str, value: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._refuse(f"{name} must be a mapping")
        for key in value:
            if key not in known:
                self._refuse_unknown(name, key, known)
        return value

    def _services(self) -> dict[str, str]:
        """The endpoints of s3 and sts in `service_config`. Those of other services are not ours."""
        config = self.extra.get("service_config") or {}
        if not isinstance(config, Mapping):
            self._refuse("extra.service_config must be a mapping")
        for name in config:
            meant = str(name).lower()
            if name != meant and meant in ("s3", "sts"):
                self._refuse(f"extra.service_config has {name!r}: write {meant!r}")
        endpoints: dict[str, str] = {}
        for service in ("s3", "sts"):
            where = f"extra.service_config.{service}"
            settings = self._mapping(where, config.get(service), ("endpoint_url",))
            url = settings.get("endpoint_url")
            if url:
                endpoints[service] = self._url(f"{where}.endpoint_url", url).geturl()
        return endpoints

    def _endpoint(self, services: Mapping[str, str]) -> SplitResult | None:
        """The connection's endpoint, else that of the environment; None for AWS."""
        if "s3" in services:
            return urlsplit(services["s3"])
        if self.extra.get("endpoint_url"):
            return self._url("extra.endpoint_url", self.extra["endpoint_url"])
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if self.environ.get(name):
                return self._url(name, self.environ[name])
        return None

    def _url(self, name: str, value: Any) -> SplitResult:
        try:
            url = urlsplit(str(value))
            has_host = bool(url.hostname) and url.port != 0
        except ValueError:
            has_host = False
        if not has_host or url.scheme not in ("http", "https"):
            self._refuse(f"{name} is not the address of a server, such as http://127.0.0.1:9000")
        if "@" in url.netloc:
            self._refuse(f"{name} contains a login; put it into login and password instead")
        if url.path.strip("/") or url.query or url.fragment:
            self._refuse(
                f"{name} contains a path, which S3 requests cannot have: give scheme, host and"
                " port only, and the bucket as lake.bucket in the pipeline file"
            )
        return url._replace(path="")

    def _region(self, endpoint: SplitResult | None) -> str:
        names = [name for name in ("region_name", "region") if self._text(name)]
        if len({self._text(name) for name in names}) == 2:
            self._refuse("extra.region_name and extra.region differ: leave out one of the two")
        if names:
            return self._text(names[0])
        if endpoint is None or _is_aws(endpoint):
            for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
                if self.environ.get(name):
                    return self.environ[name]
        if endpoint is not None and _is_aws(endpoint):
            return _region_in(endpoint) or _DEFAULT_REGION
        # Without a region the SDK would first ask the server for that of the bucket.
        return _DEFAULT_REGION

    def _keys(self) -> tuple[str, str]:
        """The access key and the secret key; empty where the connection has none."""
        pairs = [
            (
                "login",
                self._printable("login", self.connection.login),
                "password",
                self._printable("password", self.connection.password),
            ),
            (
                "extra.aws_access_key_id",
                self._text("aws_access_key_id"),
                "extra.aws_secret_access_key",
                self._text("aws_secret_access_key"),
            ),
        ]
        for key_name, key, secret_name, secret in pairs:
            if key and secret:
                return key, secret
            if key or secret:
                missing = secret_name if key else key_name
                self._refuse(f"{missing} is empty: the lake needs an access key and its secret key")
        if self._text("aws_session_token"):
            self._refuse("extra.aws_session_token needs login and password: the temporary keys")
        return "", ""

    def _role(self, sts_endpoint: str) -> Role | None:
        arn = self._text("role_arn")
        if not arn:
            return None
        if not sts_endpoint:
            self._refuse(
                "extra.role_arn needs the server's STS endpoint: set"
                " extra.service_config.sts.endpoint_url"
            )
        given = self._mapping(
            "extra.assume_role_kwargs",
            self.extra.get("assume_role_kwargs") or None,
            _ROLE_ARGUMENTS,
        )
        seconds = given.get("DurationSeconds", _SHORTEST_ROLE_SECONDS)
        if not isinstance(seconds, int) or seconds < _SHORTEST_ROLE_SECONDS:
            self._refuse(
                "extra.assume_role_kwargs.DurationSeconds must be a number of at least"
                f" {_SHORTEST_ROLE_SECONDS}"
            )
        return Role(
            arn=arn,
            session_name=str(given.get("RoleSessionName") or Role.session_name),
            seconds=seconds,
            external_id=str(given.get("ExternalId") or ""),
            policy=str(given.get("Policy") or ""),
            token_file=self._token_file(),
        )

    def _token_file(self) -> str:
        method = self._text("assume_role_method") or "assume_role"
        if method == "assume_role":
            return ""
        if method != "assume_role_with_web_identity":
            self._refuse(
                f"extra.assume_role_method {on_one_line(method)} is not supported: use assume_role"
                " or assume_role_with_web_identity"
            )
        federation = self._text("assume_role_with_web_identity_federation") or "file"
        file = self._text("assume_role_with_web_identity_token_file")
        if federation != "file" or not file:
            self._refuse(
                "extra.assume_role_method assume_role_with_web_identity needs"
                " extra.assume_role_with_web_identity_token_file; the federation is `file`"
            )
        return file

    def _verify(self) -> tuple[bool, str]:
        """Whether the server's certificate is checked, and the file of those to trust."""
        name, value = "extra.verify", self.extra.get("verify")
        # A connection in URI form has texts only.
        if isinstance(value, str) and value.lower() in ("true", "false", ""):
            value = value.lower() != "false"
        if value is False:
            return False, ""
        if value is None or value is True:
            # OpenSSL itself obeys SSL_CERT_FILE.
            name, value = "AWS_CA_BUNDLE", self.environ.get("AWS_CA_BUNDLE")
        if not value:
            return True, ""
        if not isinstance(value, str):
            self._refuse(f"{name} must be true, false, or a file with certificates")
        if not Path(value).is_file():
            self._refuse(f"{name} names a file that does not exist: {on_one_line(value)}")
        return True, value


def _is_aws(endpoint: SplitResult) -> bool:
    host = endpoint.hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _region_in(endpoint: SplitResult) -> str:
    """The region in a host such as s3.eu-west-1.amazonaws.com; empty where it has none."""
    labels = (endpoint.hostname or "").partition(".amazonaws.com")[0].split(".")
    return labels[-1] if len(labels) > 1 and labels[-1] not in ("s3", "dualstack") else ""


def _aws(service: str, region: str) -> str:
    suffix = ".cn" if region.startswith("cn-") else ""
    return f"https://{service}.{region}.amazonaws.com{suffix}"
