"""Every command of `loadsheet`, from the command line itself: `python docs/cli_reference.py >
docs/cli.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from loadsheet.cli.main import app

HEAD = """\
# The command line

Generated from the commands themselves by `python docs/cli_reference.py`.
[Commands by example](commands.md) shows what they print.

Options before the command are those of `loadsheet` itself. The project is the nearest folder with
`pipelines/`, from the current one upwards.
"""
TABLE = "| argument or option | meaning | default |\n|---|---|---|"


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    names = "\n".join(
        f"| [`{name}`](#{_anchor(name)}) | {_first(command)} |"
        for name, command in _commands(group)
    )
    index = f"| command | what it does |\n|---|---|\n{names}\n"
    parts = [HEAD, index, *_section("loadsheet", group, "[OPTIONS] COMMAND")]
    for name, command in _commands(group):
        parts += _section(f"loadsheet {name}", command, _usage(command))
    return "\n".join(parts)


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    """Every visible command with its words, those of a group after the group's name."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in _commands(command))
        else:
            yield name, command


def _section(title: str, command: Any, usage: str) -> list[str]:
    examples = [
        line.removeprefix("Example: ") for line in (command.epilog or "").split("\n\n") if line
    ]
    parts = [f"## {title}\n", f"{_prose(command.help)}\n", f"```text\n{title} {usage}\n```\n"]
    shown = [parameter for parameter in command.params if not parameter.hidden]
    if shown:
        parts.append("\n".join([TABLE, *map(_row, shown)]) + "\n")
    if examples:
        parts.append("```bash\n" + "\n".join(examples) + "\n```\n")
    return parts


def _usage(command: Any) -> str:
    return " ".join(
        ["[OPTIONS]", *(_argument(p) for p in command.params if p.param_type_name == "argument")]
    )


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    if parameter.nargs == -1 and not name.endswith("..."):
        name += "..."
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name, value = _code(_argument(parameter)), ""
    else:
        options = [*parameter.opts, *parameter.secondary_opts]
        name, value = ", ".join(map(_code, options)), _value(parameter)
    cells = [name + value, _prose(parameter.help).replace("\n", " "), _default(parameter)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(parameter: Any) -> str:
    """The text after an option: nothing for a switch, its choices, or a placeholder."""
    if parameter.is_flag or parameter.count:
        return ""
    if choices := getattr(parameter.type, "choices", ()):
        return " " + ", ".join(_code(str(getattr(choice, "value", choice))) for choice in choices)
    return f" {_code(parameter.metavar or parameter.name.upper())}"


def _default(parameter: Any) -> str:
    value = getattr(parameter.default, "value", parameter.default)
    if parameter.required:
        return "required"
    return (
        "" if value is None or isinstance(value, bool) or value in ("", ()) else _code(str(value))
    )


def _code(text: str) -> str:
    """Inline code; a bar in a table's cell is written so that GitHub and MkDocs both show it."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _first(command: Any) -> str:
    return _prose(command.help).partition("\n\n")[0].replace("\n", " ")


def _prose(text: str | None) -> str:
    """A help text as Markdown: outside code, nothing in it is taken for HTML or emphasis."""
    return re.sub(r"(`[^`]*`)|([*<])", lambda m: m[1] or f"\\{m[2]}", (text or "").strip())


def _anchor(name: str) -> str:
    return f"loadsheet-{name.replace(' ', '-')}"


if __name__ == "__main__":
    print(reference(), end="")
