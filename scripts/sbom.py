"""Compares a bill of materials with the pins that it was made from: `make sbom` runs it.

python scripts/sbom.py build/sbom.json build/sbom.txt
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

Part = tuple[str, str, frozenset[str]]
"""Name, version and SHA-256 hashes of a package."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def pinned(requirements: str) -> set[Part]:
    """The packages of a requirements file. Raises ValueError for one without version or hash."""
    parts: set[Part] = set()
    for entry in requirements.replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        pin = _PIN.match(entry)
        hashes = frozenset(_HASH.findall(entry))
        if not pin or not hashes:
            raise ValueError(f"no version or no hash: {entry.strip()[:80]}")
        parts.add((_normal(pin[1]), pin[2], hashes))
    return parts


def listed(bill: str) -> set[Part]:
    """The packages of a CycloneDX document."""
    parts: set[Part] = set()
    for component in json.loads(bill)["components"]:
        hashes: set[str] = set()
        for reference in component.get("externalReferences", ()):
            for found in reference.get("hashes", ()):
                if found["alg"] == "SHA-256":
                    hashes.add(found["content"])
        parts.add((_normal(component["name"]), component["version"], frozenset(hashes)))
    return parts


def differences(bill: str, requirements: str) -> list[str]:
    """What only one of the two has, a line for each."""
    in_bill, in_pins = listed(bill), pinned(requirements)
    lines = [f"not in the bill: {name} {version}" for name, version, _ in in_pins - in_bill]
    lines += [f"not in the pins: {name} {version}" for name, version, _ in in_bill - in_pins]
    return sorted(lines)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """1 where the bill is not that of the pins."""
    bill, pins = (Path(name).read_text(encoding="utf-8") for name in sys.argv[1:3])
    lines = differences(bill, pins)
    print("\n".join(lines) if lines else f"{sys.argv[1]}: {len(listed(bill))} packages")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
