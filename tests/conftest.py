"""For every suite: nothing is remembered from one test, or run of the tests, to the next: what the
check of a spec has found, which run was stopped."""

from __future__ import annotations

import os

os.environ["LOADSHEET_CACHE"] = os.environ["LOADSHEET_STATE"] = ""
