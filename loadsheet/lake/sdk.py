"""The minio SDK, imported without the parts that most steps do not use: its client for
administrators, and the classes for bucket settings, listings and copies.

Their crypto libraries and 84 dataclasses are more than half of the SDK's import time, in every task
(docs/decisions.md has the figures). Code that does use them gets them: they are imported then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_LATER = (
    "minioadmin",
    "commonconfig",
    "datatypes",
    "deleteobjects",
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
    """A placeholder for a class of the SDK, which is imported when the class is first used."""

    def __init__(self, module: str, name: str):
        self._module = module
        self._name = name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._real(), attribute)

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._real()(*args, **more)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())


class _Placeholders(ModuleType):
    """A module in which every class is a placeholder."""

    def __getattr__(self, name: str) -> Any:
        return _Later(self.__name__, name)


def _import_lean() -> None:
    """Import `minio` with placeholders for the modules in `_LATER`."""
    left_out = [f"minio.{name}" for name in _LATER]
    for name in left_out:
        sys.modules[name] = _Placeholders(name)
    try:
        importlib.import_module("minio")
    finally:
        # From now on, importing one of them finds the real module.
        for name in left_out:
            del sys.modules[name]


if "minio" not in sys.modules:
    _import_lean()

from minio import Minio as Minio  # noqa: E402
from minio import time as time  # noqa: E402
from minio.credentials.credentials import Credentials as Credentials  # noqa: E402
from minio.credentials.providers import AWSConfigProvider as AWSConfigProvider  # noqa: E402
from minio.credentials.providers import EnvAWSProvider as EnvAWSProvider  # noqa: E402
from minio.credentials.providers import IamAwsProvider as IamAwsProvider  # noqa: E402
from minio.credentials.providers import Provider as Provider  # noqa: E402
from minio.credentials.providers import StaticProvider as StaticProvider  # noqa: E402
from minio.credentials.providers import WebIdentityProvider as WebIdentityProvider  # noqa: E402
from minio.error import InvalidResponseError as InvalidResponseError  # noqa: E402
from minio.error import S3Error as S3Error  # noqa: E402
from minio.error import ServerError as ServerError  # noqa: E402
from minio.signer import sign_v4_sts as sign_v4_sts  # noqa: E402
from minio.xml import findtext as findtext  # noqa: E402
