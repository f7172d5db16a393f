"""The minio SDK without its client for administrators, whose crypto libraries are 75 ms of every task's start."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_ADMIN = "minio.minioadmin"


def _import() -> None:
    """Import `minio` with that client left out; whoever asks for it later gets it."""
    left_out = ModuleType(_ADMIN)
    left_out.MinioAdmin = None  # type: ignore[attr-defined]
    sys.modules[_ADMIN] = left_out
    try:
        package = importlib.import_module("minio")
    finally:
        del sys.modules[_ADMIN]
    for name in ("MinioAdmin", "minioadmin"):
        vars(package).pop(name, None)
    package.__getattr__ = _later  # type: ignore[method-assign]


def _later(name: str) -> Any:
    if name == "MinioAdmin":
        return importlib.import_module(_ADMIN).MinioAdmin
    raise AttributeError(f"module 'minio' has no attribute {name!r}")


if "minio" not in sys.modules:
    _import()

from minio import Minio as Minio  # noqa: E402
from minio.error import InvalidResponseError as InvalidResponseError  # noqa: E402
from minio.error import S3Error as S3Error  # noqa: E402
