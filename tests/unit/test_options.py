"""What a run is asked to do: the Variable, the trigger form, the schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from loadsheet.engine.request import airflow_request
from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.plan.dag_config import form_params
from loadsheet.spec.models import Lake, Pipeline, Source, Table, Transform, Warehouse

FLIGHTS = Pipeline(
    name="flights",
    file=Path("pipelines/flights/pipeline.yml"),
    source=Source(conn_id="s"),
    lake=Lake(conn_id="l", bucket="b"),
    warehouse=Warehouse(conn_id="w"),
    tables=tuple(Table(name=name) for name in ("bookings", "flights", "seats")),
    transforms=(
        Transform(name="fct", sql="SELECT * FROM bookings", file=Path("sql/fct.sql")),
        Transform(name="dim_seat", sql="SELECT * FROM seats", file=Path("sql/dim_seat.sql")),
        Transform(name="daily", sql="SELECT * FROM mart.fct", file=Path("sql/daily.sql")),
    ),
)
VERIFIED = replace(FLIGHTS, verify="1 run")
FED_BY_BOOKINGS = {"bookings", "fct", "daily"}


def request(variable: Any = None, **params: Any) -> RunRequest:
    text = variable if variable is None or isinstance(variable, str) else json.dumps(variable)
    return airflow_request(FLIGHTS, run_id="r", variable=text, params=params)


def for_flights(**entry: Any) -> dict[str, Any]:
    return {"pipelines": {"flights": entry}}


@pytest.mark.parametrize(
    "variable", [None, "", "  ", "{}", '{"incremental": true}', '{"pipelines": {}}']
)
def test_without_wishes_everything_runs_incrementally(variable: str | None) -> None:
    made = request(variable)
    assert made == RunRequest(run_id="r")


@pytest.mark.parametrize(
    ("variable", "full"),
    [
        ({"incremental": False}, "all"),
        ({"incremental": False, "pipelines": {"other": {"incremental": True}}}, "all"),
        ({"incremental": False, **for_flights(incremental=True)}, frozenset()),
        (for_flights(incremental=False), "all"),
        (for_flights(incremental=False, tables=["bookings"]), FED_BY_BOOKINGS),
        (for_flights(incremental=False, tables=[]), frozenset()),
        (for_flights(incremental=True, tables=["bookings"]), frozenset()),
        ({"incremental": False, **for_flights(incremental=False, tables=["bookings"])}, "all"),
        (
            {"incremental": False, **for_flights(incremental=True, tables=["bookings", "flights"])},
            {"seats", "dim_seat"},
        ),
        ({"pipelines": {"other": {"incremental": "nonsense", "tables": 7}}}, frozenset()),
    ],
)
def test_the_variable_switches_incremental_off_everywhere_in_a_pipeline_or_in_tables(
    variable: Any, full: Any
) -> None:
    assert request(variable).full_refresh == full


def test_a_transform_fed_by_a_table_in_full_is_built_in_full() -> None:
    made = request(for_flights(incremental=False, tables=["bookings"]))
    assert made.is_full("fct") and made.is_full("daily") and not made.is_full("dim_seat")


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("{incremental: false}", "is not JSON (line 1, column 2"),
        ([], "Variable 'loadsheet' must be an object, not []"),
        ({"incremental": "no"}, 'key incremental, must be true or false, not "no"'),
        ({"incremental": None}, "key incremental, must be true or false, not null"),
        (
            {"incremenal": False},
            "unknown key 'incremenal'. Known keys: accept_source, incremental, pipelines",
        ),
        ({"pipelines": ["flights"]}, "key pipelines, must be an object"),
        ({"pipelines": {"flights": False}}, "key pipelines.flights, must be an object, not false"),
        (
            for_flights(incremental=0),
            "key pipelines.flights.incremental, must be true or false, not 0",
        ),
        (for_flights(full=True), "key pipelines.flights, has the unknown key 'full'"),
        ({"accept_source": 1}, "key accept_source, must be true or false, not 1"),
        (
            for_flights(accept_source="7"),
            'key pipelines.flights.accept_source, must be true or false, not "7"',
        ),
        (for_flights(tables=["bookings"]), "lists tables but not what to do with them"),
        (
            for_flights(incremental=False, tables="bookings"),
            "key pipelines.flights.tables, must be a list",
        ),
        (
            for_flights(incremental=False, tables=["boking"]),
            "'boking', which is not a table of pipeline 'flights'",
        ),
        (for_flights(incremental=False, tables=[["x"]]), "['x'], which is not a table"),
    ],
)
def test_a_wrong_variable_is_named_with_its_key(variable: Any, says: str) -> None:
    with pytest.raises(InputError, match="Airflow Variable 'loadsheet'") as caught:
        request(variable)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "accepts"),
    [
        (None, False),
        ({"accept_source": True}, True),
        (for_flights(accept_source=True), True),
        ({"accept_source": True, **for_flights(accept_source=False)}, False),
        ({"pipelines": {"other": {"accept_source": True}}}, False),
    ],
)
def test_a_failed_over_source_is_accepted_by_the_variable_or_the_form(
    variable: Any, accepts: bool
) -> None:
    assert request(variable).accept_source == accepts
    assert request(variable, accept_source=True).accept_source


def test_the_form_refreshes_everything() -> None:
    made = request(full_refresh=True)
    assert made.full_refresh == "all" and made.only is None


def test_the_form_refreshes_only_the_chosen_tables() -> None:
    made = request(full_refresh=True, tables=["bookings"])
    assert made.full_refresh == FED_BY_BOOKINGS
    assert made.only == {"bookings"} and made.wants("bookings") and not made.wants("seats")


@pytest.mark.parametrize("nothing", [None, []])
def test_no_chosen_table_means_all(nothing: Any) -> None:
    assert request(tables=nothing).only is None


def test_the_form_adds_to_what_the_variable_wants_in_full() -> None:
    made = request(
        for_flights(incremental=False, tables=["seats"]), full_refresh=True, tables=["bookings"]
    )
    assert made.full_refresh == {"seats", "dim_seat"} | FED_BY_BOOKINGS
    assert (
        request({"incremental": False}, full_refresh=True, tables=["bookings"]).full_refresh
        == "all"
    )


def test_an_interval_from_the_form_is_explicit_and_in_utc() -> None:
    made = request(interval_start="2026-01-01T02:00:00+02:00", interval_end="2026-01-02T00:00:00Z")
    assert made.interval_start == "2026-01-01T00:00:00+00:00"
    assert made.interval_end == "2026-01-02T00:00:00+00:00"
    assert made.explicit_interval


def test_an_interval_from_the_form_beats_the_variable() -> None:
    made = request({"incremental": False}, interval_start="2026-01-01", interval_end="2026-01-02")
    assert made.full_refresh == frozenset() and made.interval_start == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"interval_start": "2026-01-01"}, "give both or neither"),
        ({"interval_end": "2026-01-01"}, "give both or neither"),
        (
            {"interval_start": "2026-01-02", "interval_end": "2026-01-02"},
            "must be after interval_start",
        ),
        (
            {"interval_start": "yesterday", "interval_end": "2026-01-02"},
            "interval_start is not a time: 'yesterday'",
        ),
        (
            {"interval_start": "0001-01-01T00:00+14:00", "interval_end": "2026-01-02"},
            "interval_start is not a time: '0001",
        ),
        ({"interval_start": 5, "interval_end": "2026-01-02"}, "interval_start is not a time: 5"),
        ({"full_refresh": "yes"}, 'full_refresh must be true or false, not "yes"'),
        ({"transforms": "fct"}, 'transforms must be a list, not "fct"'),
        ({"transforms": ["nope"]}, "names 'nope', which is not a transform of pipeline 'flights'"),
        ({"accept_source": "yes"}, 'accept_source must be true or false, not "yes"'),
        ({"tables": "bookings"}, "parameter tables must be a list"),
        ({"tables": ["nope"]}, "names 'nope', which is not a table"),
        (
            {"full_refresh": True, "interval_start": "2026-01-01", "interval_end": "2026-01-02"},
            "a full refresh replaces the table",
        ),
    ],
)
def test_a_wrong_form_says_what_to_change(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        request(**params)
    assert says in str(caught.value)


def test_a_misspelt_key_of_the_conf_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"unknown key 'full_refesh'\. Did you mean full_refresh\?"
    ):
        airflow_request(FLIGHTS, run_id="r", undeclared=["full_refesh"])
    with pytest.raises(
        InputError, match=r"unknown key 'owner'\. Known keys: full_refresh, tables,"
    ):
        airflow_request(FLIGHTS, run_id="r", undeclared=["owner"])


def test_the_known_keys_are_those_of_the_trigger_form() -> None:
    form = form_params(["t"], ["m"], marts=["m"])
    for key in form:
        airflow_request(VERIFIED, run_id="r", undeclared=[key])
    with pytest.raises(InputError) as caught:
        airflow_request(FLIGHTS, run_id="r", undeclared=["x"])
    assert str(caught.value).endswith(f"Known keys: {', '.join(form)}.")


def test_the_runs_own_interval_is_passed_on_in_utc() -> None:
    start = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    made = airflow_request(
        FLIGHTS, run_id="r", data_interval=(start, datetime(2026, 1, 2, tzinfo=UTC))
    )
    assert (made.interval_start, made.interval_end) == (
        "2026-01-01T00:00:00+00:00",
        "2026-01-02T00:00:00+00:00",
    )
    assert not made.explicit_interval


def test_a_run_without_a_logical_date_has_no_interval() -> None:
    made = airflow_request(FLIGHTS, run_id="r", data_interval=(None, None))
    assert (made.interval_start, made.interval_end, made.explicit_interval) == (None, None, False)


def test_the_form_names_what_to_verify_although_it_is_not_due() -> None:
    for names in (["bookings"], ["fct", "seats"], ["*"]):
        made = airflow_request(VERIFIED, run_id="r", params={"verify": names})
        assert made.verify == frozenset(names)
    assert airflow_request(VERIFIED, run_id="r", params={"verify": None}).verify == frozenset()
    with pytest.raises(InputError, match=r"names 'nope', which pipeline 'flights' does not compar"):
        airflow_request(VERIFIED, run_id="r", params={"verify": ["nope"]})


def test_a_pipeline_without_the_step_verify_refuses_to_be_verified() -> None:
    assert "verify" not in form_params(["t"], ["m"])
    with pytest.raises(InputError, match=r"Add `verify:` to pipeline\.yml, or run `loadsheet ver"):
        airflow_request(FLIGHTS, run_id="r", undeclared=["verify"])


def test_the_form_names_transforms_to_build_in_full() -> None:
    assert request(transforms=["fct"]).is_full("fct")
    assert not request(transforms=["fct"]).is_full("bookings")
    assert request(transforms=None).full_refresh == frozenset()
