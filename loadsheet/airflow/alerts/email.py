"""Sends a message as an email, as plain text and as HTML, by the server of an SMTP connection."""

from __future__ import annotations

import hashlib
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from smtplib import SMTPServerDisconnected
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import Connection

from loadsheet.airflow.alerts.http import REQUEST_TIMEOUT_SECONDS, NotAccepted
from loadsheet.airflow.alerts.message import Delivery, Message, PartlyDelivered, Post, cut
from loadsheet.errors import InputError

_LONGEST_SUBJECT = 200
_COLOURS = {"open": "#b91c1c", "resolved": "#15803d", "note": "#1d4ed8"}


def email_of(message: Message, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """The message as an email. Those about the same incident are one conversation."""
    mail = EmailMessage()
    mail["Subject"] = cut(message.title, _LONGEST_SUBJECT)
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Date"] = format_datetime(message.at)
    # No vacation notices, and no loops.
    mail["Auto-Submitted"] = "auto-generated"
    if message.incident:
        digest = hashlib.sha256(message.incident.encode()).hexdigest()[:32]
        mail["References"] = f"<{digest}@loadsheet.invalid>"
    mail.set_content(_text(message))
    mail.add_alternative(_html(message), subtype="html")
    return mail


def prepared(delivery: Delivery, connection: Connection, until: float) -> Post:
    """The post of a message by SMTP. Raises InputError for a connection that has no sender."""
    sender = connection.extra_dejson.get("from_email") or connection.login or ""
    if "@" not in sender:
        raise InputError(
            f"connection {connection.conn_id!r} has no sender: put its address into the extra"
            " `from_email`"
        )
    mail = email_of(delivery.message, sender, delivery.route.to)

    def post() -> None:
        hook = _Hook(connection)
        try:
            hook.get_conn()
        except TimeoutError:
            raise NotAccepted(f"{connection.host} does not answer") from None
        with hook:
            _send(hook._smtp_client, mail)

    return post


def _send(client: Any, mail: EmailMessage) -> None:
    """Raises TimeoutError if the mail may have arrived, PartlyDelivered if it did for some."""
    try:
        refused = client.send_message(mail)
    except SMTPServerDisconnected as error:
        # So smtplib calls an answer that does not come in time, such as that of a server that looks
        # for viruses before it accepts a mail.
        if isinstance(error.__context__, TimeoutError):
            raise TimeoutError("no answer in time") from None
        raise
    if refused:
        answers = [f"{to} ({code} {_decoded(said)})" for to, (code, said) in refused.items()]
        raise PartlyDelivered(f"the server refuses {', '.join(answers)}")


def _decoded(said: bytes) -> str:
    return said.decode(errors="replace")


class _Hook(SmtpHook):
    """Airflow's, with a connection that has been looked up already, and one short try."""

    smtp_retry_limit = 0
    timeout = REQUEST_TIMEOUT_SECONDS

    def __init__(self, connection: Connection):
        super().__init__(connection.conn_id)
        self._found = connection

    def get_connection(self, conn_id: str) -> Connection:  # type: ignore[override]
        return self._found


def _text(message: Message) -> str:
    width = max(map(len, message.facts))
    lines = [message.title, ""]
    for name, value in message.facts.items():
        lines.append(f"{name:<{width}}  {value}")
    for section in message.sections:
        lines += ["", f"{section.heading}:", section.text]
    if message.link:
        lines += ["", f"{message.link_text}: {message.link}"]
    return "\n".join(lines) + "\n"


def _html(message: Message) -> str:
    colour = _COLOURS[message.state]
    title = escape(message.title)
    parts = [f'<h3 style="color: {colour}">{title}</h3>', "<table>"]
    for name, value in message.facts.items():
        cells = f'<th align="left">{escape(name)}</th><td>{escape(value)}</td>'
        parts.append(f"<tr>{cells}</tr>")
    parts.append("</table>")
    for section in message.sections:
        parts.append(f"<h4>{escape(section.heading)}</h4><pre>{escape(section.text)}</pre>")
    if message.link.startswith(("https://", "http://")):
        parts.append(f'<p><a href="{escape(message.link)}">{message.link_text}</a></p>')
    return "\n".join(parts) + "\n"
