"""`python -m demo`: flights end to end, in a real Airflow, on embedded servers.

Needs Airflow's environment.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from demo.airflow import ApiError
from demo.checks import Check
from demo.flights.scales import scale_of
from demo.screen import Screen
from demo.slack_view import panel
from demo.state import state_folder
from demo.story import Story
from demo.world import World
from loadsheet.sqltest.process import ServerFailed

PROJECT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130
# Tracebacks without local variables: some of them are passwords.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    scale: Annotated[
        str, typer.Option(help="demo, small, medium, big, or a number of bookings.")
    ] = "demo",
    leave: Annotated[
        bool,
        typer.Option("--exit", help="Stop at the end; exit with 0 only if every check passed."),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="Port of Airflow's UI. Default: a free port."),
    ] = None,
) -> None:
    """Run the flights example end to end: embedded servers and a real Airflow, all on 127.0.0.1.

    The servers are PostgreSQL and S3. Airflow's UI stays up until Ctrl-C.

    Example: make demo ARGS="--scale small --exit"
    """
    try:
        scale_of(scale)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scale") from None
    _treat_as_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    screen = Screen()
    try:
        with state_folder(PROJECT) as state:
            raise typer.Exit(_play(screen, state, scale, leave, port))
    except KeyboardInterrupt:
        screen.console.print("\nStopped; nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None


def _play(screen: Screen, state: Path, scale: str, leave: bool, port: int | None) -> int:
    about = f"Everything runs on 127.0.0.1. Logs are in {state}"
    screen.chapter("Loadsheet: flights, end to end", about)
    world = World(PROJECT, state, screen, scale, port, lambda message: screen.show(panel(message)))
    try:
        with world:
            checks = Story(world, screen).tell()
            _say_how_it_went(screen, checks)
            if not leave:
                _invite(screen, world)
    except (ServerFailed, ApiError) as error:
        screen.console.print(f"[red]✗[/] {escape(str(error))}\n  logs: {state}")
        return 1
    screen.note("Stopped; nothing is left running.")
    return 0 if all(check.passed for check in checks) else 1


def _say_how_it_went(screen: Screen, checks: list[Check]) -> None:
    failed = sum(not check.passed for check in checks)
    verdict = (
        f"[red]{failed} of {len(checks)} checks failed[/]"
        if failed
        else f"[green]all {len(checks)} checks passed[/]"
    )
    screen.console.print(f"\n{verdict} in {screen.elapsed:.0f} s")


def _invite(screen: Screen, world: World) -> None:
    """Show where to look, and wait for Ctrl-C."""
    screen.console.print()
    airflow = world.airflow
    for line in (
        f"Airflow     [bold]{airflow.url}/dags/flights[/]",
        f"login       {airflow.user} / {airflow.password}",
        f"warehouse   {world.warehouse}",
        f"source      {world.source}",
    ):
        screen.console.print(f"  {line}", soft_wrap=True)
    screen.console.print("\n  Press Ctrl-C to stop everything.")
    try:
        world.wait_forever()
    except KeyboardInterrupt:
        screen.console.print()


def _treat_as_ctrl_c(*signals: signal.Signals) -> None:
    """Stop everything in order on these signals too; ignored ones (nohup) stay ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in signals:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


if __name__ == "__main__":
    app()
