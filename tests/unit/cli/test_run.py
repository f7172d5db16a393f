"""`loadsheet run`: what it asks the engine for, what it says while and after, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadsheet.engine.runner import Retry
from loadsheet.errors import Refused, Unavailable
from loadsheet.outcome import Outcome, RunRequest, Sample, skipped
from loadsheet.plan.steps import build_plan
from tests.conftest import heed_signals_in_children
from tests.unit.cli.conftest import Cli

Engine = Callable[[Callable[..., Any]], None]
EXTRACTED = Outcome(
    status="done", message="1,200 rows in 1 part", counts={"extracted": 1200, "bytes": 5}
)
BUILT = Outcome(
    status="done", message="3 inserted", counts={"inserted": 3, "updated": 1, "deleted": 0}
)


def pretending(
    results: dict[str, Outcome | Exception], seen: list[Any] | None = None
) -> Callable[..., Any]:
    """An engine whose steps end as `results` says, else skipped."""

    def run_pipeline(
        pipeline: Any,
        request: Any,
        connections: Any,
        on_step: Any,
        progress: Any,
        retrying: bool,
        verify: Any,
        servers: Any,
    ) -> None:
        if seen is not None:
            seen.append(request)
        failed = set()
        for step in build_plan(pipeline):
            if failed.intersection(step.upstream):
                failed.add(step.id)
                on_step(step, "upstream_failed", None)
                continue
            on_step(step, "started", None)
            progress(step, 10, 1000)
            result = results.get(step.id, skipped("nothing new"))
            is_error = isinstance(result, Exception)
            failed |= {step.id} if is_error else set()
            on_step(step, "failed" if is_error else result.status, result)

    return run_pipeline


def asked(cli: Cli, engine: Engine, *args: str) -> RunRequest:
    """The request that a command line makes."""
    seen: list[RunRequest] = []
    engine(pretending({}, seen))
    result = cli("run", "shop", *args)
    assert result.code == 0, result.err
    return seen[0]


def refused(cli: Cli, engine: Engine, *args: str) -> str:
    """What a command line is refused with, before anything ran."""
    engine(lambda *args, **kwargs: pytest.fail("ran"))
    result = cli("run", "shop", *args)
    assert (result.code, result.out) == (2, "")
    return result.err


SOME_CHANGED: dict[str, Outcome | Exception] = {
    "extract.extract_orders": EXTRACTED,
    "load.load_orders": EXTRACTED,
    "transform.transform_sales": BUILT,
}


def test_the_summary_counts_what_was_skipped_and_names_what_changed(
    cli: Cli, project: Path, engine: Engine
) -> None:
    engine(pretending(SOME_CHANGED))
    result = cli("run", "shop")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[:2] == [
        "skipped   customers, odd [red]name  nothing new",
        "skipped   report                    nothing new",
    ]
    assert re.fullmatch(r"loaded    orders  1,200 rows in 1 part \(\d\.\d s\)", lines[2])
    assert re.fullmatch(r"built     sales   3 inserted \(\d\.\d s\)", lines[3])
    assert lines[4].startswith("shop: 6 skipped, 3 done in ") and len(lines) == 5


def test_the_summary_says_why_a_table_was_extracted_and_not_loaded(
    cli: Cli, project: Path, engine: Engine
) -> None:
    """Such as one that a newer run has loaded meanwhile. Before, no line named it."""
    overtaken = skipped("nothing new; a newer extraction had overtaken this one")
    engine(pretending({"extract.extract_orders": EXTRACTED, "load.load_orders": overtaken}))
    lines = cli("run", "shop").out.splitlines()
    assert "skipped   orders  nothing new; a newer extraction had overtaken this one" in [
        re.sub(r"orders +", "orders  ", line) for line in lines
    ]


@pytest.mark.parametrize("arguments", [("run", "shop", "-v"), ("-v", "run", "shop")])
def test_with_v_there_is_a_line_per_step(
    cli: Cli,
    project: Path,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setattr("loadsheet.cli.logs.start", lambda *_: None)  # it would outlive the test
    engine(pretending(SOME_CHANGED))
    out = cli(*arguments).out.splitlines()
    assert out[:2] == ["create_bucket started", "create_bucket skipped: nothing new"]
    words = {line.split()[1]: line for line in out[-10:-1]}
    assert words["load.load_orders"].split()[:4] == ["loaded", "load.load_orders", "1,200", "rows"]
    assert words["load.load_orders"].endswith(" s  1,200 rows in 1 part")
    assert words["transform.transform_sales"].split()[:4] == [
        "done",
        "transform.transform_sales",
        "4",
        "rows",
    ]
    assert words["transform.transform_report"].startswith("skipped ")
    assert out[-1].startswith("shop: 6 skipped, 3 done in ")


def test_all_skipped_is_fine(cli: Cli, project: Path, engine: Engine) -> None:
    engine(pretending({}))
    assert cli("run", "shop").code == 0


def test_a_failed_step_fails_the_run_and_says_why(cli: Cli, project: Path, engine: Engine) -> None:
    engine(
        pretending({"load.load_orders": Refused("orders.total: numeric cannot\nbecome date [red]")})
    )
    result = cli("run", "shop")
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert "load.load_orders failed: orders.total: numeric cannot" in lines  # at once
    index = next(i for i, line in enumerate(lines) if line.startswith("failed "))
    assert lines[index].startswith("failed    load.load_orders (")
    assert lines[index + 1 : index + 3] == ["  orders.total: numeric cannot", "  become date [red]"]
    assert lines[index + 3] == (
        "not run   transform.transform_sales, transform.transform_report (an earlier step failed)"
    )
    assert lines[index + 4].startswith("shop: ")


def test_a_servers_error_is_told_without_traceback(cli: Cli, project: Path, engine: Engine) -> None:
    import psycopg

    engine(pretending({"extract.extract_orders": psycopg.OperationalError("connection refused")}))
    result = cli("run", "shop")
    assert result.code == 1
    assert (
        "connection refused (SQLSTATE 08006)" in result.out
        and "Next: check that the server runs" in result.out
    )


def test_a_wait_for_a_retry_is_told_and_tries_are_counted(
    cli: Cli, project: Path, engine: Engine
) -> None:
    def healing(
        pipeline: Any,
        request: Any,
        connections: Any,
        on_step: Any,
        progress: Any,
        retrying: bool,
        verify: Any,
        servers: Any,
    ) -> None:
        for step in build_plan(pipeline):
            on_step(step, "started", None)
            if step.id == "load.load_orders":
                on_step(
                    step, "waiting", Retry(number=1, of=2, delay=30.0, error=Unavailable("full"))
                )
                on_step(step, "started", None)
            on_step(step, "done", EXTRACTED)

    engine(healing)
    result = cli("run", "shop")
    assert "load.load_orders retry 1 of 2 in 30 s: full\n" in result.out
    assert re.search(r"loaded    orders .*1,200 rows in 1 part \(\d\.\d s, 2 tries\)\n", result.out)
    assert re.search(r"1,200 rows in 1 part \(2 tries\)\n", cli("run", "shop", "-v").out)
    tries = {step["id"]: step["tries"] for step in cli("run", "shop", "--json").json["steps"]}
    assert (tries["load.load_orders"], tries["load.load_customers"]) == (2, 1)


def test_a_bug_in_a_step_shows_where(cli: Cli, project: Path, engine: Engine) -> None:
    engine(pretending({"extract.extract_orders": ZeroDivisionError("oops")}))
    result = cli("run", "shop")
    assert result.code == 3
    assert "ZeroDivisionError: oops" in result.err and "this is a bug" in result.err
    assert "shop: " in result.out.splitlines()[-1]


def test_a_bug_shows_what_led_to_it_but_no_rows(cli: Cli, project: Path, engine: Engine) -> None:
    def bug(name: str) -> Exception:
        try:
            try:
                raise ValueError(f"duplicate key\nDETAIL:  Key (name)=({name}) already exists.")
            except ValueError as cause:
                raise TypeError("oops") from cause
        except TypeError as error:
            error.add_note("shop.orders: extract failed in run r1")
            return error

    engine(pretending({"extract.extract_orders": bug("Ada")}))
    result = cli("run", "shop")
    assert result.code == 3 and "Ada" not in result.err + result.out
    assert result.err.index("ValueError: duplicate key\n") < result.err.index(
        "TypeError: oops\nshop.orders: extract"
    )
    assert 'raise TypeError("oops") from cause' in result.err


def test_a_bug_elsewhere_shows_where(cli: Cli, project: Path, engine: Engine) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("oops")

    engine(broken)
    result = cli("run", "shop")
    assert result.code == 3
    assert "Traceback" in result.err and "this is a bug" in result.err


def test_json_is_one_document_whatever_happens(cli: Cli, project: Path, engine: Engine) -> None:
    full = OSError(28, "No space left")
    failures = {"load.load_orders": Refused("no"), "load.load_customers": full}
    engine(pretending({"extract.extract_orders": EXTRACTED, **failures}))
    result = cli("run", "shop", "--json")
    assert (result.code, result.err) == (1, "")
    document = result.json
    assert (document["pipeline"], document["run_id"][:5]) == ("shop", "cli__")
    steps = {step["id"]: step for step in document["steps"]}
    assert steps["extract.extract_orders"] == {
        "id": "extract.extract_orders",
        "kind": "extract",
        "name": "orders",
        "status": "done",
        "message": "1,200 rows in 1 part",
        "counts": {"extracted": 1200, "bytes": 5},
        "seconds": steps["extract.extract_orders"]["seconds"],
        "tries": 1,
    }
    assert steps["load.load_orders"]["message"] == "no"
    assert "No space left" in steps["load.load_customers"]["message"]
    assert steps["transform.transform_report"]["status"] == "upstream_failed"


def test_a_bare_run_asks_for_all_that_is_new(cli: Cli, project: Path, engine: Engine) -> None:
    request = asked(cli, engine)
    assert (request.only, request.full_refresh, request.explicit_interval) == (
        None,
        frozenset(),
        False,
    )


def test_each_run_has_an_id_of_its_own(cli: Cli, project: Path, engine: Engine) -> None:
    assert asked(cli, engine).run_id != asked(cli, engine).run_id


def test_tables_are_chosen(cli: Cli, project: Path, engine: Engine) -> None:
    assert asked(cli, engine, "--tables", "orders, customers").only == {"orders", "customers"}


def test_a_full_refresh_is_of_everything(cli: Cli, project: Path, engine: Engine) -> None:
    assert asked(cli, engine, "--full-refresh").full_refresh == "all"


@pytest.mark.parametrize(
    ("size", "sample"),
    [("1%", Sample(share=0.01)), ("0.1%", Sample(share=0.001)), ("5000", Sample(rows=5000))],
)
def test_a_sample_is_read_anew_each_time(
    cli: Cli, project: Path, engine: Engine, size: str, sample: Sample
) -> None:
    request = asked(cli, engine, "--sample", size)
    assert (request.sample, request.full_refresh, request.only) == (sample, "all", None)


def test_a_sampled_run_says_where_its_tables_are(cli: Cli, project: Path, engine: Engine) -> None:
    engine(pretending({}))
    last = cli("run", "shop", "--sample", "1%").out.splitlines()[-1]
    assert last.startswith(
        "a sample (1%), in staging_sample and mart_sample; staging, mart and all watermarks"
    )


def test_a_changed_source_is_accepted_only_when_asked_for(
    cli: Cli, project: Path, engine: Engine
) -> None:
    assert not asked(cli, engine).accept_source
    assert asked(cli, engine, "--accept-source").accept_source


def test_a_full_refresh_of_tables_is_of_those_and_what_they_feed(
    cli: Cli, project: Path, engine: Engine
) -> None:
    request = asked(cli, engine, "--full-refresh", "--tables", "customers")
    assert (request.full_refresh, request.only) == ({"customers", "report"}, {"customers"})


@pytest.mark.parametrize(
    ("start", "end", "interval"),
    [
        ("2026-01-01", "2026-02-01", ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00")),
        (
            "2026-01-01T00:00+02:00",
            "2026-01-01T00:00",
            ("2025-12-31T22:00:00+00:00", "2026-01-01T00:00:00+00:00"),
        ),
        ("-5", "1000.5", ("-5", "1000.5")),
        ("9", "10", ("9", "10")),
    ],
)
def test_an_interval_is_a_persons_wish(
    cli: Cli, project: Path, engine: Engine, start: str, end: str, interval: tuple[str, str]
) -> None:
    request = asked(cli, engine, f"--from={start}", f"--to={end}")
    assert (request.interval_start, request.interval_end) == interval
    assert request.explicit_interval


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tables", "order"], "has no table 'order' (did you mean 'orders'?)"),
        (["--tables", "zzz"], "has no table 'zzz'; it has orders, customers, odd [red]name"),
        (["--tables", " , "], "--tables names no table"),
        (["--tables", "sales"], "has no table 'sales'"),
        (["--from", "2026-01-01"], "--from and --to go together"),
        (["--to", "2026-01-01"], "--from and --to go together"),
        (
            ["--from", "2026-02-01", "--to", "2026-01-01"],
            "--to 2026-01-01 must come after --from 2026-02-01",
        ),
        (["--from", "1", "--to", "1"], "must come after"),
        (["--from", "1", "--to", "2026-01-01"], "both be times or both be numbers"),
        (
            ["--from", "yesterday", "--to", "2026-01-01"],
            "--from yesterday is neither a time such as",
        ),
        (["--from", "0001-01-01T00:00+14:00", "--to", "2026-01-01"], "is neither a time such as"),
        (
            ["--from", "2026-01-01", "--to", "9999-12-31T23:00-14:00"],
            "--to 9999-12-31T23:00-14:00 is neither a time",
        ),
        (["--from", "\u0661", "--to", "\u0662"], "is neither a time such as"),
        (["--sample", "\u0661%"], "neither a share"),
        (["--full-refresh", "--from", "1", "--to", "2"], "leave out --from and --to"),
        (["--sample", "1%", "--from", "1", "--to", "2"], "leave out --from and --to"),
        (
            ["--sample", "0%"],
            "--sample 0% is neither a share, such as 1% or 0.1%, nor a number of rows per table",
        ),
        (["--sample", "101%"], "neither a share"),
        (["--sample", "0.5"], "neither a share"),
        (["--sample", ""], "neither a share"),
        (["--resume", "--tables", "orders"], "leave out the other options"),
        (["--resume"], "no run of shop was stopped on this machine"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    cli: Cli, project: Path, engine: Engine, args: list[str], message: str
) -> None:
    assert message in refused(cli, engine, *args)


def test_a_missing_connection_is_refused_before_anything_runs(
    cli: Cli, project: Path, engine: Engine
) -> None:
    (project / "connections/connections.yml").write_text(
        "source: {host: h}\nlake: {host: '${LAKE_HOST_OF_NOBODY}'}\n"
    )
    assert "LAKE_HOST_OF_NOBODY is not set" in refused(cli, engine)
    (project / "connections/connections.yml").write_text("source: {host: h}\nlake: {host: h}\n")
    assert "connection 'warehouse' is not defined" in refused(cli, engine)


def test_all_that_connections_lack_is_told_at_once(cli: Cli, project: Path, engine: Engine) -> None:
    """It was one variable for each try."""
    (project / "connections/connections.yml").write_text(
        "source: {host: '${HOST_A}', password: '${PASS_A:?from the vault}', login: '${LOGIN:-x}'}\n"
        "lake: {host: h, extra: {endpoint_url: '${LAKE_B}'}}\n"
    )
    err = refused(cli, engine)
    assert "has no host, password: HOST_A is not set; PASS_A is not set (from the vault)" in err
    assert "Set HOST_A, PASS_A in the environment or in " in err
    assert "connection 'lake' has no extra.endpoint_url: LAKE_B is not set" in err
    assert "connection 'warehouse' is not defined" in err


TYPE = Refused("column amount is numeric here and text there; run a full refresh of this table")
INDEX = Refused("x was unique. Create the index again, or run a full refresh of this table")
RESUME = "resume it: loadsheet run shop --resume"
READ_AGAIN = "read again: loadsheet run shop --tables orders --full-refresh"


@pytest.mark.parametrize(
    ("failures", "shown"),
    [
        ({"extract.extract_orders": TYPE}, [READ_AGAIN]),
        ({"load.load_orders": TYPE}, [READ_AGAIN]),
        (
            {"extract.extract_orders": TYPE, "extract.extract_customers": Refused("x")},
            [RESUME, READ_AGAIN],
        ),
        ({"extract.extract_orders": INDEX}, [RESUME]),
        ({"extract.extract_orders": Refused("x")}, [RESUME]),
    ],
)
def test_resume_is_offered_where_it_can_help(
    cli: Cli,
    project: Path,
    engine: Engine,
    failures: dict[str, Outcome | Exception],
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Before, a table that only a full refresh helps was to be resumed, and failed again."""
    monkeypatch.setenv("LOADSHEET_STATE", str(tmp_path / "state"))
    engine(pretending(failures))
    done = cli("run", "shop")
    assert done.code == 1
    assert [line for line in done.out.splitlines() if "loadsheet run shop --" in line] == shown


def test_a_run_that_ends_well_takes_no_other_runs_record_away(
    cli: Cli, project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another begins and fails while it goes on: it is the other that --resume goes on with."""
    monkeypatch.setenv("LOADSHEET_STATE", str(tmp_path / "state"))

    def overlapping(*args: Any, **kwargs: Any) -> None:
        engine(pretending({"extract.extract_orders": Refused("no")}))
        other = cli("run", "shop", "--tables", "orders")
        assert other.code == 1 and "resume it: loadsheet run shop --resume" in other.out
        pretending({})(*args, **kwargs)

    engine(overlapping)
    assert cli("run", "shop").code == 0
    assert asked(cli, engine, "--resume").only == {"orders"}
    assert "no run of shop was stopped" in refused(cli, engine, "--resume")


def test_connections_come_from_the_pipelines_own_project(
    cli: Cli,
    project: Path,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    engine(pretending({}))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert cli("run", project / "pipelines/shop/pipeline.yml").code == 0
    assert cli("--project", project, "run", "shop").code == 0


def test_an_interrupt_is_told_cleanly(cli: Cli, project: Path, engine: Engine) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    engine(interrupted)
    result = cli("run", "shop")
    assert result.code == 130
    assert "interrupted" in result.err


HANGING = """
import sys, threading, types, time
def run_pipeline(pipeline, request, connections, on_step, progress, retrying, verify, servers):
    def work():
        # Not in the main thread: a signal that comes within its write would find stderr locked.
        print("hanging", file=sys.stderr, flush=True)
        {work}
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
runner = sys.modules["loadsheet.engine.runner"] = types.ModuleType("loadsheet.engine.runner")
runner.run_pipeline = run_pipeline
preflight = sys.modules["loadsheet.engine.preflight"] = types.ModuleType("preflight")
preflight.preflight = lambda *given: None
from loadsheet.cli.main import app
app(["run", "shop"])
"""


def hanging(
    work: str = "time.sleep(60)", ignored: Sequence[signal.Signals] = ()
) -> subprocess.Popen[str]:
    """A run whose one step does `work`, begun by somebody who has signals ignored."""

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    started = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        preexec_fn=ignore,
    )
    assert started.stderr and started.stderr.readline() == "hanging\n"
    return started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_does_not_wait_for_a_step_that_hangs(
    project: Path, number: signal.Signals
) -> None:
    with hanging() as run:
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 128 + number
    assert err.startswith("interrupted: ") and "Traceback" not in err


def test_a_signal_that_the_caller_has_ignored_stays_ignored(project: Path) -> None:
    with hanging("time.sleep(2)", ignored=[signal.SIGINT, signal.SIGHUP]) as run:
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGHUP)
        _, err = run.communicate(timeout=20)
    assert "interrupted" not in err and run.returncode not in (129, 130)


def test_the_signal_to_end_is_obeyed_by_a_run_that_was_started_to_ignore_it(project: Path) -> None:
    with hanging(ignored=[signal.SIGINT, signal.SIGHUP, signal.SIGTERM]) as run:
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 143 and err.startswith("interrupted: ")


def test_a_run_of_a_background_job_can_be_stopped(project: Path) -> None:
    """As `make test &` starts the tests: a child of theirs inherited that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        heed_signals_in_children()
        with hanging() as run:
            run.send_signal(signal.SIGINT)
            assert run.wait(20) == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_who_stands_still_keeps_nobody_from_stopping_the_run(project: Path) -> None:
    # more than the pipe holds, and nobody reads
    with hanging("print('x' * (1 << 22), flush=True)") as run:
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 130


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {}])
def test_a_log_has_lines_and_no_moving_bars(
    cli: Cli,
    project: Path,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    engine(pretending({}))
    out = cli("run", "shop", "-v").out
    assert (
        out.startswith("create_bucket started\n")
        and "\x1b[?25l" not in out
        and "\x1b[2K" not in out
    )
