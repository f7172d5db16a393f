"""Posts one message to a Slack webhook, within a few seconds or not at all."""

from __future__ import annotations

import threading
import time
from typing import Any

from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

# The limit of each read, not of all of them: a server that answers byte by byte is stopped by
# `until`.
REQUEST_TIMEOUT_SECONDS = 5
_ANSWER_SECONDS = 1.0


def post(slack_conn_id: str, message: dict[str, Any], until: float) -> None:
    """Post `message` to the webhook of the Airflow connection `slack_conn_id`, or give up at
    `until` (monotonic).

    Raises TimeoutError if the message may have arrived but no answer came, and the client's error
    if Slack refused it or was not reached.
    """
    hook = SlackWebhookHook(
        slack_webhook_conn_id=slack_conn_id,
        timeout=REQUEST_TIMEOUT_SECONDS,
        retry_handlers=[_WhenAllowed(until)],
    )
    # Looks up the connection in this thread, which owns Airflow's channel to the supervisor.
    hook.get_conn()
    failed: list[Exception] = []

    def send() -> None:
        try:
            hook.send_dict(message)
        except Exception as error:
            failed.append(error)

    sender = threading.Thread(target=send, name="slack", daemon=True)
    sender.start()
    sender.join(max(0.0, until - time.monotonic()))
    if sender.is_alive():
        raise TimeoutError("no answer in time")
    if failed:
        raise failed[0]


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
        return time.monotonic() + longest_wait + _ANSWER_SECONDS < self._until
