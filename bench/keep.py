"""`python -m bench.keep FILE --scale medium`: servers and generated flights for several
measurements.

Writes where they are to FILE and waits for Ctrl-C; the other commands take `--world FILE` and then
neither start servers nor generate data again.
"""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench import data
from bench.world import world


def main(
    file: Annotated[Path, typer.Argument(help="Where to write the servers' addresses.")],
    scale: Annotated[
        str, typer.Option(help="Of the flights source: demo, small, medium, big, or bookings.")
    ] = "medium",
) -> None:
    """Start the servers, generate the flights, and wait for Ctrl-C."""
    with world() as started:
        data.flights(started, scale)
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(started)))
        typer.echo("ready: Ctrl-C ends the servers")
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    typer.run(main)
