"""Ends an attempt: its manifest in the lake, and the seal in the ledger that names it."""

from __future__ import annotations

import logging

from loadsheet.engine.attempt import Attempt
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import FILE_NAME, Manifest
from loadsheet.warehouse import fence

_log = logging.getLogger(__name__)


def seal(attempt: Attempt, manifest: Manifest) -> None:
    """Store the manifest, then record its name and hash in the ledger.

    Raises Overtaken when another extraction has taken the fence in the meantime.
    """
    name = f"{attempt.take_fence_once().prefix}/{FILE_NAME}"
    content = manifest.to_json()
    sha256 = attempt.lake.put(name, content)
    reach("extract.manifest_stored")
    attempt.warehouse.use(
        lambda session: fence.seal_attempt(session, manifest, attempt.target, name, sha256)
    )
    _log.debug("%s: sealed %s", attempt.target, name)
    reach("extract.sealed")
