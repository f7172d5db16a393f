"""The page's modules as one script: a browser loads no module from a file's address."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The page's modules use these forms and no others; a test keeps it so.
_IMPORT = re.compile(r'^import (?:\{([^}]*)\}|\* as (\w+)) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:const|(?:async )?function\*?) (\w+))", re.MULTILINE)
_OTHER_FORM = re.compile(r"^\s*(?:import\b(?!\()|export\b).*", re.MULTILINE)


def one_script(modules: Mapping[str, str], start: str) -> str:
    """A script that does what the module `start` does: each module that it needs is a function that
    returns what it exports. `modules` are the texts by name, without `.js`.

    Raises ValueError for an import or export in another form than the page's modules have, KeyError
    for a module that is not there.
    """
    done: dict[str, str] = {}
    _add(done, modules, start)
    return '"use strict";\n' + "\n".join(done.values())


def _add(done: dict[str, str], modules: Mapping[str, str], name: str) -> None:
    """Add the module, after those that it imports; they import each other in no circle."""
    text = modules[name]
    for _, _, imported in _IMPORT.findall(text):
        if imported not in done:
            _add(done, modules, imported)
    names = [exported for _, exported in _EXPORT.findall(text)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(_as_constants, text))
    if other := _OTHER_FORM.search(body):
        raise ValueError(f"{name}.js: {other.group().strip()!r} has a form that is not known")
    done[name] = f"const {name}$ = (() => {{\n{body}return {{ {', '.join(names)} }};\n}})();\n"


def _as_constants(found: re.Match[str]) -> str:
    names, whole, module = found.groups()
    if whole:
        return f"const {whole} = {module}$;\n"
    constants = " ".join(names.split()).replace(" as ", ": ")
    return f"const {{ {constants} }} = {module}$;\n"
