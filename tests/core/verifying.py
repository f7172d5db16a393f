"""What the tests of `loadsheet verify` share."""

from __future__ import annotations

from loadsheet.verify.models import TableVerdict

CREATE = """
CREATE TABLE item (
    id bigint, part int, name text, price numeric, weight double precision, doc json,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (id, part)
);
INSERT INTO item (id, part, name, price, weight, doc)
SELECT i, i % 3, 'name ' || i, i / 7.0, i / 3.0, '{"a": 1.0}' FROM generate_series(1, 3000) i;
"""


def counts(verdict: TableVerdict) -> dict[str, int]:
    return {kind: count for kind, count in verdict.counts.items() if count}
