"""docker-compose.yml passes every check that needs no engine, and each check is shown to fail: see
`MUTATIONS`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tests.unit import compose_checks as checks
from tests.unit.compose_file import ROOT, STACK, Stack, parse

DOCUMENTED = {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}

Check = Callable[[Stack], list[str]]


def variables(stack: Stack) -> list[str]:
    return checks.variables(stack, DOCUMENTED)


CHECKS: list[Check] = [
    checks.shape,
    checks.references,
    variables,
    checks.literal_secrets,
    checks.images,
    checks.ports,
    checks.health,
    checks.endings,
    checks.secrets_held,
    checks.superusers,
    checks.users,
    checks.airflow,
]
GONE = object()
MUTATIONS: list[tuple[Check, str, Any]] = [
    (checks.shape, "services.lake.healtcheck", {}),
    (checks.shape, "services.lake.healthcheck.intervall", "5s"),
    (checks.shape, "services.lake.healthcheck.interval", "five seconds"),
    (checks.shape, "services.lake.ports", "127.0.0.1:9000:9000"),
    (checks.shape, "services.lake.depends_on.lake-init.condition", "service_done"),
    (checks.shape, "services.source-roles.environment.ROLE_DATABASE", 5),
    (checks.shape, "networkz", {}),
    (checks.references, "services.lake.depends_on.lakeinit", {"condition": "service_started"}),
    (
        checks.references,
        "services.airflow-apiserver.depends_on.postgres.condition",
        "service_completed_successfully",
    ),
    (
        checks.references,
        "services.airflow-scheduler.depends_on.redis",
        {"condition": "service_healthy"},
    ),
    (checks.references, "services.postgres.healthcheck", GONE),
    (checks.references, "services.airflow-init.depends_on.source-init", GONE),
    # Without the profile `flights`, Compose would refuse to start.
    (checks.references, "services.airflow-init.depends_on.source-init.required", True),
    (checks.references, "volumes.lake-data", GONE),
    (variables, "services.lake.environment.MINIO_ROOT_USER", "${LAKE_ACCES_KEY:?see .env.example}"),
    (variables, "services.lake.environment.MINIO_ROOT_PASSWORD", "${LAKE_SECRET_KEY}"),
    (variables, "services.lake.environment.MINIO_ROOT_PASSWORD", "${LAKE_SECRET_KEY:-minioadmin}"),
    (variables, "services.source-roles.environment.ROLE_DATABASE", "${FLIGHTS_SOURCE_DB}"),
    (
        variables,
        "services.source-roles.environment.ROLE_DATABASE",
        "${FLIGHTS_SOURCE_DB:-elsewhere}",
    ),
    (variables, "services.source-roles.environment.ROLE_DATABASE", "$FLIGHTS_SOURCE_DB"),
    (checks.literal_secrets, "services.source-roles.environment.ROLE_PASSWORD", "postgres"),
    (checks.literal_secrets, "services.airflow-init.environment.AIRFLOW__CORE__FERNET_KEY", ""),
    (
        checks.literal_secrets,
        "services.airflow-init.environment.URL",
        "postgresql://airflow:airflow@postgres/airflow",
    ),
    (checks.images, "services.redis.image", "redis:latest"),
    (checks.images, "services.redis.image", "redis"),
    (checks.images, "services.postgres.image", "postgres:16"),
    (checks.ports, "services.lake.ports", ["9000:9000"]),
    (checks.ports, "services.lake.ports", ["0.0.0.0:${LAKE_PORT:-9000}:9000"]),
    (checks.ports, "services.warehouse.ports", ["127.0.0.1:${WAREHOUSE_PORT:-5433}:5432"]),
    (checks.health, "services.airflow-triggerer.healthcheck", GONE),
    (checks.health, "services.warehouse.restart", "no"),
    # As in Airflow's own compose file: 5.6, 5.6 and 9.1 s of CPU, each time.
    (
        checks.health,
        "services.airflow-dag-processor.healthcheck.test",
        ["CMD-SHELL", 'airflow jobs check --job-type DagProcessorJob --hostname "$$HOSTNAME"'],
    ),
    (
        checks.health,
        "services.airflow-triggerer.healthcheck.test",
        ["CMD-SHELL", 'airflow jobs check --job-type TriggererJob --hostname "$$HOSTNAME"'],
    ),
    (
        checks.health,
        "services.airflow-worker.healthcheck.test",
        ["CMD-SHELL", "celery --app airflow.providers.celery.executors.celery_executor.app status"],
    ),
    (checks.health, "services.lake.healthcheck.interval", "5s"),
    (checks.health, "services.airflow-apiserver.healthcheck.start_interval", "30s"),
    (checks.health, "services.airflow-apiserver.healthcheck.start_period", "60s"),
    (checks.endings, "services.airflow-worker.stop_grace_period", GONE),
    (checks.endings, "services.airflow-worker.stop_grace_period", "1m"),
    (checks.endings, "services.warehouse.stop_grace_period", GONE),
    # redis was killed after a minute, without a word to it.
    (
        checks.endings,
        "services.redis.command",
        ["sh", "-c", 'printf "requirepass %s\\n" "$$REDISCLI_AUTH" | exec redis-server -'],
    ),
    (checks.endings, "services.lake.logging", GONE),
    (checks.endings, "services.airflow-init.logging.options.max-file", GONE),
    (checks.secrets_held, "services.airflow-worker.env_file", [".env"]),
    (
        checks.secrets_held,
        "services.airflow-worker.environment.AIRFLOW__CORE__FERNET_KEY",
        "${AIRFLOW_FERNET_KEY:?see .env.example}",
    ),
    (
        checks.secrets_held,
        "services.airflow-worker.environment.AIRFLOW__CELERY__RESULT_BACKEND",
        "db+postgresql://airflow:${AIRFLOW_DB_PASSWORD:?see .env.example}@postgres/airflow",
    ),
    (checks.superusers, "services.warehouse.environment.POSTGRES_USER", "warehouse"),
    (checks.superusers, "services.warehouse-roles", GONE),
    (checks.superusers, "services.source-reader.command", ["true"]),
    (checks.superusers, "services.postgres-roles.network_mode", GONE),
    (checks.users, "services.lake.user", GONE),
    (checks.users, "services.redis.user", "0:0"),
    (checks.users, "services.lake-init.cap_drop", GONE),
    (checks.users, "services.source.security_opt", []),
    (checks.users, "services.redis.cap_drop", GONE),
    (checks.users, "services.airflow-worker.read_only", GONE),
    (checks.airflow, "services.airflow-dag-processor", GONE),
    (checks.airflow, "services.airflow-init.entrypoint", ["/bin/bash"]),
    (
        checks.airflow,
        "services.airflow-scheduler.environment.AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY",
        GONE,
    ),
    (checks.airflow, "services.airflow-worker.profiles", GONE),
]


def changed(path: str, value: Any) -> Stack:
    """The stack with one place changed or taken away."""
    # Merged anchors share nodes; a plain deepcopy of the stack would keep that and change them all.
    stack: Any = json.loads(json.dumps(STACK))
    *above, last = path.split(".")
    node = stack
    for name in above:
        node = node[name]
    if value is GONE:
        del node[last]
    else:
        node[last] = copy.deepcopy(value)
    return stack


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_compose_file_passes(check: Check) -> None:
    assert check(STACK) == []


@pytest.mark.parametrize(("check", "path", "value"), MUTATIONS)
def test_a_compose_file_with_one_mistake_does_not_pass(check: Check, path: str, value: Any) -> None:
    assert check(changed(path, value))


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="twice"):
        parse("services: {a: {image: x, image: y}}")
