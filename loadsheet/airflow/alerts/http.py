"""Posts a JSON document to the address of a connection, within a few seconds or not at all."""

from __future__ import annotations

import contextlib
import json
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from airflow.sdk import Connection
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url

from loadsheet.errors import InputError, WorkError
from loadsheet.redact import on_one_line, register_secrets

REQUEST_TIMEOUT_SECONDS = 5
"""The limit of each read, not of all of them: who sends leaves a server alone that answers byte by
byte."""
ANSWER_SECONDS = 1.0
"""What a request needs, after a pause that a server has asked for."""
_LONGEST_ANSWER = 300  # of what a server says about a refusal


class NotAccepted(WorkError):
    """The receiver was not reached, or has refused the message."""


def is_address(text: str | None) -> bool:
    """Whether the text is the address of a server, https://... or http://..."""
    if not text or not text.startswith(("https://", "http://")):
        return False
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def address_of(connection: Connection) -> str:
    """The address that the connection holds: its password, as most are secret, or its host. Raises
    InputError where it has none."""
    for text in (connection.password, connection.host):
        if text and is_address(text):
            return text
    raise InputError(
        f"connection {connection.conn_id!r} has no address: put all of it, https://..., into its"
        " password, or into its host if it is no secret"
    )


def post_json(
    address: str,
    document: Mapping[str, Any],
    until: float,
    headers: Mapping[str, str] | None = None,
    auth: AuthBase | None = None,
) -> None:
    """Post the document. A 429 is waited out if it asks for so little that the answer can come
    before `until` (monotonic); everything else is tried once. Redirections are not followed.

    Raises TimeoutError if the document may have arrived but no answer came, and NotAccepted if it
    did not. The message has the server's name, and not the address, which is a secret.
    """
    register_secrets(address)
    server = urlsplit(address).hostname
    body = json.dumps(document, ensure_ascii=False).encode()
    while True:
        try:
            answer = requests.post(
                address,
                data=body,
                headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
                auth=auth or _nothing,
                timeout=REQUEST_TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,
            )
        except requests.ReadTimeout:
            raise TimeoutError(f"no answer of {server} in time") from None
        except requests.RequestException as error:
            raise NotAccepted(f"{server} was not reached: {type(error).__name__}") from None
        with answer:
            if 200 <= answer.status_code < 300:
                return
            pause = _pause(answer)
            if pause is None or time.monotonic() + pause + ANSWER_SECONDS > until:
                raise NotAccepted(f"{server} answers {_refusal(answer)}")
        time.sleep(pause)


def _pause(answer: requests.Response) -> int | None:
    """The seconds after which a server that is asked too often wants to be asked again."""
    seconds = answer.headers.get("Retry-After", "")
    if answer.status_code == 429 and seconds.isdecimal() and len(seconds) < 5:
        return max(int(seconds), 1)  # who asks for none would be asked without a break
    return None


def _refusal(answer: requests.Response) -> str:
    if answer.is_redirect:
        return f"{answer.status_code}, a redirection, which is not followed"
    said = b""
    with contextlib.suppress(requests.RequestException):  # the status says enough
        said = next(answer.iter_content(_LONGEST_ANSWER), b"")
    text = on_one_line(said.decode(errors="replace").strip())
    return f"{answer.status_code}: {text}" if text else str(answer.status_code)


def _nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # Without it, requests would send what a ~/.netrc holds for the server.
    return request


class Bearer(AuthBase):
    """A token in the header Authorization."""

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As requests calls it."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def login_of(connection: Connection) -> AuthBase | None:
    """The login of a connection: its password, where that is no address, with its name or as a
    token alone; else the login that its address has. Raises InputError for one without an
    address."""
    name, password = connection.login, connection.password or ""
    if not password or is_address(password):
        name, password = get_auth_from_url(address_of(connection))
    if not password:
        return None
    if not name:
        return Bearer(password)
    login = f"{name}:{password}".encode()
    # A server that repeats what it was sent repeats it like this.
    register_secrets(password, b64encode(login).decode())
    return HTTPBasicAuth(name.encode(), password.encode())
