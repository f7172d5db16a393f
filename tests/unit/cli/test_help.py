"""Every command explains itself, with an example that is right."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import typer

from loadsheet import __version__
from loadsheet.cli.main import app
from tests.unit.cli.conftest import Cli

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_these_are_the_commands() -> None:
    names = (
        "init check plan add new run doctor grants test status ui verify lineage docs restore adopt"
        " gc schema render"
    )
    assert list(COMMANDS) == names.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_whose_options_exist(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = cli(command, "--help").out
    examples = re.findall(r"Example: loadsheet (.+)", text)
    assert examples
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    for example in examples:
        words = shlex.split(example)
        assert words[0] == command
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize(
    "command", ["init", "plan", "add", "new", "run", "test", "status", "lineage", "adopt", "gc"]
)
def test_what_scripts_read_comes_as_json(command: str) -> None:
    assert "--json" in {
        option for parameter in COMMANDS[command].params for option in parameter.opts
    }


def test_the_bare_command_shows_help(cli: Cli) -> None:
    result = cli()
    assert "Usage: loadsheet" in result.out + result.err


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out == f"loadsheet {__version__}\n"


@pytest.mark.parametrize(
    "args", [["nope"], ["plan"], ["plan", "a", "b"], ["run", "x", "--tabels", "y"]]
)
def test_a_wrong_command_line_is_wrong_input(cli: Cli, args: list[str]) -> None:
    result = cli(*args)
    assert result.code == 2
    assert "Usage: loadsheet" in result.err


def test_commands_that_need_no_server_import_no_driver() -> None:
    code = (
        "import sys; from loadsheet.cli.main import app\n"
        "try: app(['check'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str({'psycopg', 'minio', 'zstandard', 'airflow'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) in [(0, ""), (1, "\n")]
