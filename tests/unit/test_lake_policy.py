"""The bucket policy in the documentation is the one that the tests of the lake run with."""

from __future__ import annotations

import json
import re
from pathlib import Path

from loadsheet.lake.policy import bucket_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lake.md"


def test_the_policy_in_the_documentation_is_the_real_one() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert json.loads(shown) == bucket_policy("lake", "shop")
