"""Posts to Slack: to an incoming webhook, or as a bot to a channel and into its threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import IncompleteRead
from typing import Any

from airflow.providers.slack.hooks.slack import SlackHook
from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
from airflow.sdk import Connection
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from loadsheet.airflow.alerts.http import ANSWER_SECONDS, REQUEST_TIMEOUT_SECONDS
from loadsheet.airflow.alerts.message import Delivery, Post, Thread
from loadsheet.airflow.alerts.slack import slack_message
from loadsheet.errors import InputError

_BOT = "slack"
# Slack's answers where a reply cannot follow its message: that was deleted, its thread is locked,
# or its channel is archived, left, or of another workspace. The route's channel may take it.
_NO_THREAD = (
    "thread_not_found",
    "message_not_found",
    "cannot_reply_to_message",
    "invalid_thread_ts",
    "restricted_action_thread_locked",
    "restricted_action_non_threadable_channel",
    "channel_not_found",
    "is_archived",
    "not_in_channel",
)


def prepared(delivery: Delivery, connection: Connection, until: float) -> Post:
    """The post of a message to Slack, which gives up at `until` (monotonic). Raises InputError for
    a connection that does not go with the route, and the hook's errors for one without a token."""
    conn_id, channel = delivery.route.conn_id, delivery.route.channel
    is_bot = connection.conn_type == _BOT
    if is_bot and channel is None:
        raise InputError(
            f"connection {conn_id!r} is a bot (type {_BOT}): add its `channel` to the route"
        )
    if channel and not is_bot:
        raise InputError(
            f"connection {conn_id!r} is of type {connection.conn_type}, not {_BOT}: a webhook"
            f" has its own channel. Remove `channel`, or use a bot's connection of type {_BOT}"
        )
    message = slack_message(delivery.message)
    limits: Any = {
        "timeout": REQUEST_TIMEOUT_SECONDS,
        "retry_handlers": [_WhenAllowed(until)],
    }
    if channel is None:
        webhook = SlackWebhookHook(slack_webhook_conn_id=conn_id, **limits)
        webhook.get_conn()  # looks the connection up in this thread

        def post_to_webhook() -> None:
            with _whole_answer():
                webhook.send_dict(message)

        return post_to_webhook
    client = SlackHook(slack_conn_id=conn_id, **limits).client

    def post_as_bot() -> Thread:
        with _whole_answer():
            return _post_as_bot(client, channel, message, delivery.thread)

    return post_as_bot


@contextmanager
def _whole_answer() -> Iterator[None]:
    """Raises TimeoutError where the answer breaks off: its status has come, so the message has
    arrived."""
    try:
        yield
    except IncompleteRead:
        raise TimeoutError("the answer breaks off") from None


def _post_as_bot(
    client: WebClient, channel: str, message: dict[str, Any], thread: Thread | None
) -> Thread:
    """Post the message as a reply in the thread, if there is one. Returns the thread that it is in,
    or that it begins."""
    if thread:
        try:
            client.chat_postMessage(
                channel=thread["channel"], thread_ts=thread["message"], **message
            )
            return thread
        except SlackApiError as error:
            if error.response.get("error") not in _NO_THREAD:
                raise
    posted = client.chat_postMessage(channel=channel, **message)
    return {"channel": str(posted["channel"]), "message": str(posted["ts"])}


class _WhenAllowed(RateLimitErrorRetryHandler):
    """Tries again after the time that a 429 asks for, if there is enough left; nothing else is
    tried twice.

    Slack accepts about one message a second, and a source that is down fails many tasks at once.
    """

    def __init__(self, until: float):
        super().__init__(max_retry_count=5)
        self._until = until

    def _can_retry(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if response is None or response.status_code != 429:
            return False
        seconds = ""
        for name, values in response.headers.items():
            if name.lower() == "retry-after":
                seconds = values[0]
        if not seconds.isdecimal():
            return False
        # The client waits up to a second longer, so that not all clients come back at once.
        longest_wait = int(seconds) + 1
        return time.monotonic() + longest_wait + ANSWER_SECONDS < self._until
