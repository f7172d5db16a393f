"""For every suite: what a spec's check has found is not remembered from one test, or run of the tests, to the next."""

from __future__ import annotations

import os

os.environ["LOADSHEET_CACHE"] = ""
