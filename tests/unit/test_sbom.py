"""A bill of materials is compared with the pins it was made from; and the pins can be installed
only as they are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PINS = sorted([ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")])
A, B = "a" * 64, "b" * 64
TEXT = f"""\
# a comment
one==1.0 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
Two.Parts[extra]==2.0 ; python_version < "3.12" \\
    --hash=sha256:{A}
"""


def module() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "scripts" / "sbom.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


sbom = module()


def bill(*parts: tuple[str, str, list[str]]) -> str:
    components = []
    for name, version, hashes in parts:
        references = [{"hashes": [{"alg": "SHA-256", "content": text}]} for text in hashes]
        components.append({"name": name, "version": version, "externalReferences": references})
    return json.dumps({"components": components})


def test_a_bill_of_all_pins_is_true() -> None:
    assert sbom.differences(bill(("one", "1.0", [A, B]), ("two-parts", "2.0", [A])), TEXT) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([("one", "1.0", [A, B])], ["not in the bill: two-parts 2.0"]),
        (
            [("one", "1.1", [A, B]), ("two-parts", "2.0", [A])],
            ["not in the bill: one 1.0", "not in the pins: one 1.1"],
        ),
        (
            [("one", "1.0", [A]), ("two-parts", "2.0", [A])],
            ["not in the bill: one 1.0", "not in the pins: one 1.0"],
        ),
        (
            [("one", "1.0", [A, B]), ("two-parts", "2.0", [A]), ("three", "3", [])],
            ["not in the pins: three 3"],
        ),
    ],
    ids=["one is missing", "another version", "another file", "one too many"],
)
def test_a_bill_that_differs_is_not(
    wrong: list[tuple[str, str, list[str]]], said: list[str]
) -> None:
    assert sbom.differences(bill(*wrong), TEXT) == said


@pytest.mark.parametrize("file", PINS, ids=lambda file: file.name)
def test_every_pin_has_a_version_and_a_hash(file: Path) -> None:
    assert sbom.pinned(file.read_text())


@pytest.mark.parametrize("log", ["is a yanked version: 'one' candidate", "Successfully installed"])
def test_an_environment_with_a_yanked_version_is_not_made(tmp_path: Path, log: str) -> None:
    """The line of the Makefile, on what pip has written."""
    (tmp_path / "pip.log").write_text(f"The candidate selected for download or install {log}\n")
    (line,) = [text for text in (ROOT / "Makefile").read_text().splitlines() if "yanked" in text]
    command = line.strip().lstrip("@").replace("$(1)", str(tmp_path)).replace("$(2)", "pins.txt")
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == ("yanked" in log)
    assert ("pins.txt pins a version that was yanked" in done.stderr) == ("yanked" in log)


@pytest.mark.parametrize("text", ["one>=1.0\n", "one==1.0\n", "one @ https://example.org/x.whl\n"])
def test_what_is_no_pin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no version or no hash"):
        sbom.pinned(text)
