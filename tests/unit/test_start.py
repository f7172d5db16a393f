"""What a process imports before it does anything: a third of a short run's time, and paid by every
task."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loadsheet.cli.main import EXAMPLES
from tests.imports import imported_by

A_RUN = [
    f"loadsheet.{name}"
    for name in ("cli.main", "cli.run", "engine.runner", "engine.extract", "engine.load")
]
HELP = "from loadsheet.cli.main import app; app(['{}', '--help'], standalone_mode=False)"
SETTINGS = (
    "commonconfig datatypes deleteobjects"
    " lifecycleconfig notificationconfig objectlockconfig replicationconfig select sseconfig"
    " minioadmin"
)


@pytest.mark.parametrize("command", EXAMPLES)
def test_a_command_imports_no_other(command: str) -> None:
    imported = set(imported_by(code=HELP.format(command)).split())
    assert f"loadsheet.cli.{command}" in imported
    others = {name for name in EXAMPLES if f"loadsheet.cli.{name}" in imported} - {command}
    assert others <= {"add"} if command == "new" else not others


def test_a_run_that_shows_nothing_imports_what_it_needs_only() -> None:
    imported = set(imported_by(*A_RUN).split())
    assert {"psycopg", "minio"} <= imported
    unneeded = {
        "rich",
        "yaml",
        "jsonschema",
        "loadsheet.sql.libpg",
        "dotenv",
        "pyarrow",
        "asyncpg",
        "pydantic",
    }
    assert not imported & {*unneeded, *(f"minio.{name}" for name in SETTINGS.split())}
    assert len(imported) < 560  # 540 when this was written


def test_a_run_compiles_no_pattern_of_sql_before_it_reads_some() -> None:
    """The largest took a tenth of all that a start costs beside the interpreter's own."""
    code = (
        "import loadsheet.cli.run, loadsheet.engine.runner\n"
        "from loadsheet.sql import tokens, type_names\n"
        "patterns = tokens._token, type_names._landing_type, type_names._declared_type\n"
        "print([pattern.cache_info().currsize for pattern in patterns])"
    )
    assert imported_by(code=code).startswith("[0, 0, 0]\n")


def test_what_is_left_out_of_the_s3_client_is_there_for_whoever_asks() -> None:
    code = (
        "import loadsheet.lake.sdk, minio, minio.api as api\n"
        "from minio.versioningconfig import VersioningConfig\n"
        "assert isinstance(VersioningConfig('Enabled'), api.VersioningConfig)\n"
        "assert not isinstance(1, api.VersioningConfig)\n"
        "assert api.VersioningConfig('Suspended').status == 'Suspended'\n"
        "assert api.LifecycleConfig.fromxml.__self__ is minio.lifecycleconfig.LifecycleConfig\n"
        "assert minio.MinioAdmin.user_add is minio.minioadmin.MinioAdmin.user_add\n"
        "print('fine')"
    )
    assert imported_by(code=code).startswith("fine\n")


@pytest.mark.parametrize("module", ["typer", "loadsheet.cli.errors", "loadsheet.cli.check"])
def test_ctrl_c_while_modules_are_imported_ends_with_a_word_and_130(module: str) -> None:
    """Before, it ended with Python's traceback: only the commands themselves were guarded."""
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *more):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from loadsheet.__main__ import main\n"
        "sys.argv = ['loadsheet', 'check']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


AN_END = """
import atexit, os, sys, types, loadsheet.__main__
class Kept:
    def __del__(self, write=os.write):
        write(2, b"taken apart")
kept = Kept()
{before}
def command():
    atexit.register(os.write, 2, b"called ")
    sys.stdout.write("said")
    sys.exit({code})
sys.modules["loadsheet.cli.main"] = types.SimpleNamespace(main=command)
loadsheet.__main__.main()
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_ends_with_its_output_and_code_and_takes_nothing_apart(code: int) -> None:
    ending = [sys.executable, "-c", AN_END.format(code=code, before="")]
    done = subprocess.run(ending, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said", "called ")


@pytest.mark.parametrize(
    ("code", "before"),
    [("'a message'", ""), ("0", "atexit.register(os.write, 2, b'first ')")],
    ids=["no number", "somebody waits for the end already"],
)
def test_any_other_end_is_pythons(code: str, before: str) -> None:
    ending = [sys.executable, "-c", AN_END.format(code=code, before=before)]
    done = subprocess.run(ending, text=True, capture_output=True)
    assert done.stdout == "said"
    assert done.stderr.endswith("taken apart")
    assert ("first" in done.stderr) == bool(before)


@pytest.mark.skipif(sys.platform != "linux", reason="writes to /dev/full")
def test_output_that_cannot_be_written_is_told_at_the_end() -> None:
    ending = [sys.executable, "-c", AN_END.format(code=0, before="")]
    with open("/dev/full", "w") as full:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(ending, text=True, stdout=full, stderr=subprocess.PIPE, env=env)
    assert done.returncode == 120
    assert "No space left on device" in done.stderr
