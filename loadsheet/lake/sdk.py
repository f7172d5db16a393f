"""The minio SDK without what a worker never asks of it: its client for administrators, and the
settings of buckets.

Their crypto libraries and 60 dataclasses are half of the SDK's import, in every task. Whoever asks
for them gets them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_LATER = (
    "minioadmin",
    "legalhold",
    "lifecycleconfig",
    "notificationconfig",
    "objectlockconfig",
    "replicationconfig",
    "retention",
    "select",
    "sseconfig",
    "tagging",
    "versioningconfig",
)


class _Later:
    """Stands for a class of the SDK, which is imported when it is first used."""

    def __init__(self, module: str, name: str):
        self._place = module, name

    def _real(self) -> Any:
        module, name = self._place
        return getattr(importlib.import_module(module), name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._real(), attribute)

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._real()(*args, **more)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())


def _import() -> None:
    """Import `minio` with classes that come later in place of those modules'."""
    left_out = [f"minio.{name}" for name in _LATER]
    sys.modules |= {name: _empty(name) for name in left_out}
    try:
        importlib.import_module("minio")
    finally:
        for name in left_out:
            del sys.modules[name]


def _empty(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__getattr__ = lambda wanted: _Later(name, wanted)  # type: ignore[method-assign]
    return module


if "minio" not in sys.modules:
    _import()

from minio import Minio as Minio  # noqa: E402
from minio.error import InvalidResponseError as InvalidResponseError  # noqa: E402
from minio.error import S3Error as S3Error  # noqa: E402
