"""A request that the lake refused, with what was asked and by whom."""

from __future__ import annotations

import re

ANSWER = re.compile(r"<Code>([\w.]+)</Code>(?:.*<Message>(.*?)</Message>)?", re.DOTALL)
"""Code and message in the body of an answer that the SDK does not take for one of S3."""


class LakeFailed(Exception):
    """Its cause (`__cause__`) is the error of the SDK or of urllib3.

    `request` is for messages: the action as policies name it, the bucket or the object, and the
    principal. `code` is S3's own; empty where there is none. `conn_id` is the lake's connection.
    """

    def __init__(self, action: str, resource: str, principal: str, code: str, conn_id: str = ""):
        self.code = code
        self.conn_id = conn_id
        self.request = f"{action} on {resource} by {principal}"
        super().__init__(self.request)


class NotOfS3(ValueError):
    """No S3 server answers so; the message says why. It is no error of the network: urllib3 does
    not ask again."""
