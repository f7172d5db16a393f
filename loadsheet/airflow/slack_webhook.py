"""Posts one message to a Slack webhook, within a few seconds or not at all."""

from __future__ import annotations

import threading
import time
from typing import Any

from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

# Holds per read, so a server that answers byte by byte could hold the task for ever: `until` does
# not let it.
REQUEST_TIMEOUT_SECONDS = 5
_ANSWER_SECONDS = 1.0


def post(slack_conn_id: str, message: dict[str, Any], until: float) -> None:
    """Post `message` to the webhook of the Airflow connection `slack_conn_id`, or give up at
    `until` (monotonic).

    Raises TimeoutError when the message may have arrived but no answer came; whatever the client
    raises when Slack refused it or was not reached.
    """
    hook = SlackWebhookHook(
        slack_webhook_conn_id=slack_conn_id,
        timeout=REQUEST_TIMEOUT_SECONDS,
        retry_handlers=[_WhenAllowed(until)],
    )
    # looks the connection up here: Airflow's channel to the supervisor belongs to this thread
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
    """Waits as long as a 429 asks for, if there is time for it: Slack takes about one message a
    second, and a source that is down fails many tasks at once. Nothing else is tried twice."""

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
        asked = next(
            (value[0] for name, value in response.headers.items() if name.lower() == "retry-after"),
            "",
        )
        # The client adds up to a second of its own, so that not all come back at once.
        return (
            asked.isdecimal() and time.monotonic() + int(asked) + 1 + _ANSWER_SECONDS < self._until
        )
