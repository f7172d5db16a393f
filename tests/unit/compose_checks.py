"""What docker-compose.yml is held to without an engine. Each check takes the parsed file and
returns what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from jsonschema import Draft202012Validator

from tests.unit.compose_file import SECRET, VARIABLE, Stack, strings

SCHEMA = json.loads(Path(__file__).with_name("compose.schema.json").read_text())


def runs_once(service: Stack) -> bool:
    """Whether the service does its work and ends."""
    return bool(service["restart"] == "no")


def shape(stack: Stack) -> list[str]:
    """Keys and types, by the part of the Compose Specification that we use."""
    errors = Draft202012Validator(SCHEMA).iter_errors(stack)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def references(stack: Stack) -> list[str]:
    """Every dependency exists and can meet its condition; every volume is declared and used.

    A service that ends is awaited by another: `docker compose up --wait` takes an exit for a
    failure otherwise.
    """
    services, mounted = stack["services"], set()
    awaited = {other for service in services.values() for other in service.get("depends_on", {})}
    found = [
        f"nobody waits for {name}"
        for name, s in services.items()
        if runs_once(s) and name not in awaited
    ]
    for name, service in services.items():
        mounted |= {
            m.split(":")[0] for m in service.get("volumes", []) if not m.startswith((".", "/"))
        }
        for other, how in service.get("depends_on", {}).items():
            target = services.get(other, {"restart": "missing"})
            able = {
                "service_healthy": "healthcheck" in target,
                "service_completed_successfully": runs_once(target),
            }
            if not able.get(how["condition"], other in services):
                found.append(
                    f"{name} waits for {other} to be {how['condition']}, which never happens"
                )
            optional = not how.get("required", True)
            if not optional and set(target.get("profiles", [])) - set(service.get("profiles", [])):
                found.append(f"{name} waits for {other}, which a profile may leave out")
    return found + [
        f"volume {volume} is undeclared or unused"
        for volume in sorted(mounted ^ set(stack["volumes"]))
    ]


def variables(stack: Stack, documented: Mapping[str, str]) -> list[str]:
    """`${VAR}` is documented, has a default or is refused when empty; a secret is always refused
    when empty."""
    found = []
    for text in strings(stack):
        for name, how, rest in VARIABLE.findall(text):
            if name not in documented:
                found.append(f"{name} is not in .env.example")
            if how != ":?" and SECRET.search(name):
                found.append(f"{name} is a secret and may be empty or has a default")
            if how not in (":?", ":-") or not rest:
                found.append(f"{name} has neither a default nor a refusal")
            elif how == ":-" and documented.get(name) not in (rest, None):
                found.append(f"{name} is {rest} here and {documented[name]} in .env.example")
        if re.search(
            r"\$(?![{$])", VARIABLE.sub("", text.replace("$$", ""))
        ) or "${" in VARIABLE.sub("", text):
            found.append(f"not a variable that we understand: {text}")
    return found


def literal_secrets(stack: Stack) -> list[str]:
    """No password stands in the file: neither as a value nor inside a URL."""
    found = []
    for name, service in stack["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and not re.fullmatch(r"\$\{\w+:\?[^}]+\}", value):
                found.append(f"{name}: {key} is written out")
            if re.search(r"://[^/@:]*:(?!\$\{\w+:\?)[^/@]+@", value):
                found.append(f"{name}: {key} has a password in its URL")
    return found


def images(stack: Stack) -> list[str]:
    """Every image has an exact tag."""
    exact = re.compile(r"[\w./-]+:(\d+\.\d+(\.\d+)?(-[a-z]+)?|RELEASE\.\d{4}-\d\d-\d\dT[\d-]+Z)")
    return [
        f"{name}: {s['image']}"
        for name, s in stack["services"].items()
        if not exact.fullmatch(s["image"])
    ]


def ports(stack: Stack) -> list[str]:
    """Published on 127.0.0.1 only, on a port that can be changed and that nobody else has."""
    published = [(n, port) for n, s in stack["services"].items() for port in s.get("ports", [])]
    found = [
        f"{n}: {p}" for n, p in published if not re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", p)
    ]
    taken = [VARIABLE.findall(port)[0][2] for _, port in published if VARIABLE.search(port)]
    return found + [
        f"port {port} is published twice" for port in sorted(set(taken)) if taken.count(port) > 1
    ]


def health(stack: Stack) -> list[str]:
    """Every service that stays has a healthcheck and comes back; one that ends has none.

    A check never starts Airflow (six seconds of CPU each time), asks often while a service starts
    and rarely afterwards, and does not give up on a slow machine's first minutes.
    """
    found = []
    for name, service in stack["services"].items():
        check = service.get("healthcheck")
        if runs_once(service) == (check is not None):
            found.append(f"{name}: healthcheck and restart disagree")
        if check is None:
            continue
        test = " ".join(check["test"][1:])
        if re.search(r"\bairflow\s+[a-z]|python|--app\b", test):
            found.append(f"{name}: its healthcheck starts Airflow")
        if seconds(check["interval"]) < 30 or seconds(check["start_interval"]) > 5:
            found.append(f"{name}: checked too often, or not often enough while it starts")
        if seconds(check["start_period"]) < 120:
            found.append(f"{name}: a slow start counts as a failure")
    return found


def seconds(duration: str) -> int:
    """The length of a duration such as `90s` or `1m30s`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+)([hms])", duration))


def endings(stack: Stack) -> list[str]:
    """A service that stays has more than Docker's 10 seconds to stop, and what runs tasks has more
    than the others; no log of a container grows without bound."""
    found = []
    tasks = {"airflow-scheduler": 120, "airflow-worker": 120}
    for name, service in stack["services"].items():
        grace = seconds(service.get("stop_grace_period", "10s"))
        if not runs_once(service) and grace < tasks.get(name, 30):
            found.append(f"{name}: {grace} s are not enough to stop in")
        if re.search(r"\|\s*exec\b", str(service.get("command"))):
            found.append(f"{name}: a shell keeps the stop from what it has started")
        options = service.get("logging", {}).get("options", {})
        if not {"max-size", "max-file"} <= set(options):
            found.append(f"{name}: its log grows without bound")
    return found


HELD = {
    "postgres-roles": {"AIRFLOW_DB_PASSWORD"},
    "airflow-apiserver": {
        "AIRFLOW_ADMIN_PASSWORD",
        "AIRFLOW_DB_PASSWORD",
        "AIRFLOW_FERNET_KEY",
        "AIRFLOW_JWT_SECRET",
        "AIRFLOW_SECRET_KEY",
    },
    "airflow-scheduler": {
        "AIRFLOW_DB_PASSWORD",
        "AIRFLOW_FERNET_KEY",
        "AIRFLOW_JWT_SECRET",
        "AIRFLOW_SECRET_KEY",
        "REDIS_PASSWORD",
    },
    "airflow-dag-processor": {"AIRFLOW_DB_PASSWORD", "AIRFLOW_FERNET_KEY"},
    "airflow-triggerer": {"AIRFLOW_DB_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_SECRET_KEY"},
    "airflow-worker": {"AIRFLOW_SECRET_KEY", "REDIS_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "source-roles": {"FLIGHTS_OWNER_PASSWORD"},
    "source-reader": {"FLIGHTS_SOURCE_PASSWORD"},
    "source-init": {"FLIGHTS_OWNER_PASSWORD"},
    "warehouse-roles": {"WAREHOUSE_PASSWORD"},
    "lake": {"LAKE_ACCESS_KEY", "LAKE_SECRET_KEY"},
}
"""The secrets that a service works with. `airflow-init` writes all connections, and ends."""


def secrets_held(stack: Stack) -> list[str]:
    """A container has the secrets that it needs and no other."""
    found = []
    for name, service in stack["services"].items():
        if name == "airflow-init":
            continue
        if "env_file" in service:
            found.append(f"{name} has all of .env")
        texts = strings({k: v for k, v in service.items() if k != "profiles"})
        named = {variable for text in texts for variable, _, _ in VARIABLE.findall(text)}
        secrets = {variable for variable in named if SECRET.search(variable)}
        if secrets != HELD.get(name, set()):
            found.append(f"{name} holds {sorted(secrets)}")
    return found


def superusers(stack: Stack) -> list[str]:
    """No role of .env is a superuser: the server has a superuser of its own, without a password
    that is written anywhere, and a service that runs at every `up` sets the role's password."""
    services = stack["services"]
    found = []
    for name, service in services.items():
        if not service["image"].startswith("postgres:"):
            continue
        given = service.get("environment", {})
        if not runs_once(service):
            if set(given) != {"POSTGRES_PASSWORD_FILE"}:
                found.append(f"{name}: {sorted(given)} make a role of .env a superuser")
            if f"{name}-roles" not in services:
                found.append(f"{name} has no service that sets the role")
        elif "NOSUPERUSER" not in str(service["command"]) or "ROLE_PASSWORD" not in given:
            found.append(f"{name} does not set the role's rights and its password")
        elif service.get("network_mode") != "none":
            found.append(f"{name} needs no network")
    return found


def users(stack: Stack) -> list[str]:
    """Nobody runs as root, but for a container that ends, has no network and one capability. None
    may gain rights."""
    found = []
    for name, service in stack["services"].items():
        root = service.get("user", "root").split(":")[0] in ("root", "0") and "build" not in service
        caged = (
            service.get("network_mode") == "none"
            and service.get("cap_drop") == ["ALL"]
            and runs_once(service)
        )
        if root and not caged:
            found.append(f"{name} runs as root")
        if "no-new-privileges:true" not in service.get("security_opt", []):
            found.append(f"{name} may gain privileges")
        if service.get("cap_drop") != ["ALL"]:
            found.append(f"{name} has capabilities")
        # The lake's image is not ours to say what it writes.
        if not service["image"].startswith("pgsty/") and not service.get("read_only"):
            found.append(f"{name} may write into its image")
    return found


def airflow(stack: Stack) -> list[str]:
    """Airflow's official services, each through its image's own entrypoint; dag-factory's telemetry
    is off."""
    parts = ("apiserver", "scheduler", "dag-processor", "triggerer", "init", "worker")
    missing = {"postgres", "redis", *(f"airflow-{part}" for part in parts)} - set(stack["services"])
    found = [f"{name} is missing" for name in sorted(missing)]
    for name, service in stack["services"].items():
        if "build" in service and "entrypoint" in service:
            found.append(f"{name} replaces the image's entrypoint")
        telemetry = (
            service["environment"].get("AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY")
            if "build" in service
            else None
        )
        if name.startswith("airflow-") and telemetry != "False":
            found.append(f"{name} has telemetry on")
        if "celery" in str(service.get("command")) and service.get("profiles") != ["celery"]:
            found.append(f"{name} is not in the celery profile")
    return found
