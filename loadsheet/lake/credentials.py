"""The keys that sign requests to the lake: the connection's own, else those of the environment, a
profile, a web identity, a container or an instance; with a role, those of the role."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from configparser import Error as ProfileError
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import urllib3
from urllib3.exceptions import HTTPError

from loadsheet.connections.s3 import Role, S3Settings
from loadsheet.errors import ConnectionMissing, LoadsheetError, Refused, Unavailable
from loadsheet.lake.http import with_limits
from loadsheet.lake.sdk import (
    AWSConfigProvider,
    Credentials,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
    WebIdentityProvider,
    sign_v4_sts,
    time,
)
from loadsheet.redact import clean, register_secrets

# A machine outside of AWS has no metadata service: it must not wait for one for long.
_METADATA_SECONDS = 2
_STATUS = re.compile(r"HTTP status code (\d{3})")
# Renewed before the server could refuse them: a request takes a while.
_RENEWED_BEFORE = timedelta(minutes=1)


def provider(
    settings: S3Settings, http: urllib3.PoolManager, environ: Mapping[str, str] = os.environ
) -> Provider:
    """Where the keys come from. Raises ConnectionMissing where nothing could have any.

    Asking it for keys raises Refused or Unavailable, where a service has to be asked first.
    """
    role = settings.role
    if role and role.token_file:
        return _Explained(settings.conn_id, role.arn, _web_identity(settings, role, http))
    name, base = _base(settings, http, environ)
    explained = _Explained(settings.conn_id, name, base)
    if role is None:
        return explained
    assumed = _AssumedRole(settings, role, explained, http)
    return _Explained(settings.conn_id, f"the role {role.arn}", assumed)


def principal(settings: S3Settings, keys: Provider) -> str:
    """Who asks, for messages: the role, else the access key, shortened. It is asked after a request
    was refused, so it raises nothing."""
    if settings.role:
        return settings.role.arn
    try:
        return f"access key {_shortened(keys.retrieve().access_key)}"
    except Exception:
        return "no access key"


def _shortened(access_key: str) -> str:
    # Enough to tell one key from another. Whole, it is hidden in messages (docs/security.md).
    if len(access_key) < 16:
        return f"{access_key[:3]}..."
    return f"{access_key[:4]}...{access_key[-4:]}"


def _base(
    settings: S3Settings, http: urllib3.PoolManager, environ: Mapping[str, str]
) -> tuple[str, Provider]:
    """The keys without a role, and their name for messages."""
    if settings.access_key:
        token = settings.session_token or None
        keys = StaticProvider(settings.access_key, settings.secret_key, token)
        return "the connection", keys
    if settings.profile:
        return f"the profile {settings.profile}", AWSConfigProvider(profile=settings.profile)
    if environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWS_ACCESS_KEY"):
        return "AWS_ACCESS_KEY_ID", EnvAWSProvider()
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and settings.sts_endpoint:
        identity = IamAwsProvider(custom_endpoint=settings.sts_endpoint, http_client=http)
        return "AWS_WEB_IDENTITY_TOKEN_FILE", identity
    if environ.get("AWS_PROFILE") or _credentials_file(environ).is_file():
        return "the profile of AWS_PROFILE", AWSConfigProvider()
    # The keys of a machine are AWS's: another server does not know them, and must not see them.
    if not settings.is_aws or environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise ConnectionMissing(
            f"connection {settings.conn_id!r} has no login and password (the access key and the"
            " secret key), and neither AWS_ACCESS_KEY_ID, AWS_PROFILE nor a web identity provides"
            " them"
        )
    direct = urllib3.PoolManager(
        timeout=_METADATA_SECONDS, retries=urllib3.Retry(total=1, backoff_factor=0.2)
    )
    return "the instance's role", IamAwsProvider(http_client=with_limits(direct))


def _credentials_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if named:
        return Path(named)
    return Path(environ.get("HOME") or "/", ".aws", "credentials")


def _web_identity(settings: S3Settings, role: Role, http: urllib3.PoolManager) -> Provider:
    def token() -> dict[str, str]:
        # Read each time: Kubernetes replaces the file before the token ends.
        text = Path(role.token_file).read_text(encoding="utf-8")
        register_secrets(text.strip())
        return {"access_token": text.strip(), "expires_in": str(role.seconds)}

    return WebIdentityProvider(
        jwt_provider_func=token,
        sts_endpoint=settings.sts_endpoint,
        role_arn=role.arn,
        role_session_name=role.session_name,
        policy=role.policy or None,
        http_client=http,
    )


class _Explained(Provider):
    """Keys from `keys`, whose errors name the connection and `name`, where they come from."""

    def __init__(self, conn_id: str, name: str, keys: Provider):
        self._conn_id = conn_id
        self._name = name
        self._keys = keys

    def retrieve(self) -> Credentials:
        try:
            found = self._keys.retrieve()
        except (ValueError, KeyError, TypeError, OSError, ProfileError) as error:
            # A URL's query may hold a token.
            text = clean(re.sub(r"\?\S+", "", str(error))) or type(error).__name__
            raise self._error(text) from None
        except HTTPError as error:
            text = clean(str(getattr(error, "reason", None) or error))
            raise Unavailable(
                f"connection {self._conn_id!r}: {self._name} cannot be asked for keys: {text}."
                " Next: give the connection login and password, or check that this machine can"
                " reach the service; a retry may succeed"
            ) from None
        register_secrets(found.access_key, found.secret_key, found.session_token or "")
        return found

    def _error(self, text: str) -> LoadsheetError:
        what = f"connection {self._conn_id!r}: {self._name} gives no keys: {text}"
        status = _STATUS.search(text)
        if status and status[1][0] == "5":
            return Unavailable(f"{what}. Next: a retry may succeed")
        return Refused(f"{what}. Next: correct it, or give the connection login and password")


class _AssumedRole(Provider):
    """The keys of a role, for an hour or more, from the keys `base`.

    The SDK's own provider cannot sign with a session token, so that a role could not be assumed
    from that of an instance or a container.
    """

    def __init__(self, settings: S3Settings, role: Role, base: Provider, http: urllib3.PoolManager):
        self._settings = settings
        self._role = role
        self._base = base
        self._http = http
        self._found: Credentials | None = None

    def retrieve(self) -> Credentials:
        if self._found is None or _ends_soon(self._found):
            self._found = self._assume()
        return self._found

    def _assume(self) -> Credentials:
        role = self._role
        question = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": role.arn,
            "RoleSessionName": role.session_name,
            "DurationSeconds": str(role.seconds),
        }
        if role.external_id:
            question["ExternalId"] = role.external_id
        if role.policy:
            question["Policy"] = role.policy
        body = urlencode(question)
        keys = self._base.retrieve()
        url = urlsplit(self._settings.sts_endpoint)._replace(path="/")
        now = time.utcnow()
        headers: dict[str, Any] = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Host": url.netloc,
            "X-Amz-Date": time.to_amz_date(now),
        }
        if keys.session_token:
            headers["X-Amz-Security-Token"] = keys.session_token
        sign_v4_sts(
            method="POST",
            url=url,
            region=self._settings.region,
            headers=headers,
            credentials=keys,
            content_sha256=hashlib.sha256(body.encode()).hexdigest(),
            date=now,
        )
        answer = self._http.request("POST", url.geturl(), body=body, headers=headers)
        if answer.status != 200:
            why = _found_text(answer.data, "Message") or _found_text(answer.data, "Code")
            raise ValueError(f"{why} (HTTP status code {answer.status})")
        expires = _found_text(answer.data, "Expiration")
        return Credentials(
            access_key=_found_text(answer.data, "AccessKeyId"),
            secret_key=_found_text(answer.data, "SecretAccessKey"),
            session_token=_found_text(answer.data, "SessionToken"),
            expiration=time.from_iso8601utc(expires) if expires else None,
        )


def _ends_soon(keys: Credentials) -> bool:
    if keys.expiration is None:
        return False
    return keys.expiration < time.utcnow().replace(tzinfo=None) + _RENEWED_BEFORE


def _found_text(answer: bytes, name: str) -> str:
    """The text of the first element `name`; empty where there is none."""
    try:
        root = ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return ""
    for element in root.iter():
        if element.tag.rpartition("}")[2] == name:
            return element.text or ""
    return ""
