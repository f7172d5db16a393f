"""The image is what `make setup` builds, for a deployment: same steps, same pins, an ordinary user,
no stray file."""

from __future__ import annotations

import re

import pytest

from tests.unit.compose_file import ROOT, STACK

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCKERIGNORE = (ROOT / ".dockerignore").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
REQUIREMENTS = (ROOT / "requirements.txt").read_text()


def pip_steps(text: str) -> list[str]:
    return [step.strip() for step in re.findall(r"python -m (pip .*)", text)]


def problems(
    dockerfile: str = DOCKERFILE, makefile: str = MAKEFILE, dockerignore: str = DOCKERIGNORE
) -> list[str]:
    """Where the image's recipe differs from `make setup`, from the pins, or from what a safe image
    needs."""
    recipe = re.findall(r"define environment\n(.*?)endef", makefile, re.S)[0]
    # An environment compiles what is imported; a container cannot.
    recipe = recipe.replace(" --no-compile", "")
    ours = pip_steps(recipe.replace("$(1)/bin/", "").replace("$(2)", "requirements.txt"))
    steps = pip_steps(dockerfile)
    airflow = re.findall(r"^apache-airflow==(\S+)", REQUIREMENTS, re.M)[0]
    ignored = [line for line in dockerignore.splitlines() if line and line[0] != "#"]
    listed = {line[1:].rstrip("/") for line in ignored if line[0] == "!"}
    copied = {
        name
        for line in re.findall(r"^COPY --\S+ (.*) \S+$", dockerfile, re.M)
        for name in line.split()
    }
    wanted = {
        "the steps are those of make setup": (
            len(ours) == 2 and [s for s in steps if "$extra" not in s] == ours
        ),
        "nothing is installed without a hash": all(
            "--require-hashes" in s or "--no-index" in s for s in steps
        ),
        "Airflow is the pinned one": (
            re.findall(r"^FROM (.*)$", dockerfile, re.M)
            == [f"apache/airflow:slim-{airflow}-python3.12"]
        ),
        "it ends as an ordinary user": (
            re.findall(r"^USER (.*)$", dockerfile, re.M)[-1:] == ["airflow"]
        ),
        # A container cannot write it: its file system is read-only.
        "all code is compiled": bool(
            re.search(
                r"compileall .*\n.*stdlib.*\n(.*\n)*RUN for extra in celery \$EXTRAS; do(.*\n)*"
                r"RUN .*compileall .*\n.*purelib.*\n(.*\n)*COPY .* \. \./\n(.*\n)*"
                r"RUN python -m compileall -q dags loadsheet operators\n",
                dockerfile,
            )
        ),
        "nothing is written at the first start": "touch /opt/airflow/airflow.cfg" in dockerfile,
        "all is ignored but what is listed": ignored[0] == "*",
        "no secret or environment is listed": not [
            n for n in listed if re.match(r"\.(env|git|venv|demo)", n)
        ],
        "all that is copied is listed": copied - {".", "requirements/*.txt"} <= listed,
        "all that runs is listed": (
            {
                "dags",
                "demo",
                "loadsheet",
                "operators",
                "pipelines",
                "connections",
            }
            <= listed
        ),
        "all that is listed exists": all((ROOT / name).exists() for name in listed),
    }
    return [what for what, holds in wanted.items() if not holds]


def test_the_image_is_installed_by_the_steps_of_make_setup_as_an_ordinary_user() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("problem", "files"),
    [
        ("the steps", {"dockerfile": DOCKERFILE.replace("--no-deps --no-index", "--no-deps")}),
        ("the steps", {"dockerfile": re.sub(r"RUN .* -e \.\n", "", DOCKERFILE)}),
        (
            "the steps",
            {"makefile": MAKEFILE.replace("--require-hashes", "--require-hashes --no-deps")},
        ),
        (
            "the steps",
            {"dockerfile": DOCKERFILE.replace("pip install", "pip install --no-compile")},
        ),
        ("nothing is installed", {"dockerfile": DOCKERFILE + "RUN python -m pip install pandas\n"}),
        ("Airflow is", {"dockerfile": DOCKERFILE.replace("slim-3", "slim-2")}),
        ("Airflow is", {"dockerfile": DOCKERFILE.replace("airflow:slim", "airflow:latest-slim")}),
        ("it ends", {"dockerfile": DOCKERFILE + "USER root\n"}),
        ("all code", {"dockerfile": re.sub(r"RUN .* compileall .*\n", "", DOCKERFILE)}),
        ("all code", {"dockerfile": re.sub(r"RUN .*\n.*purelib.*\n", "", DOCKERFILE)}),
        ("all code", {"dockerfile": DOCKERFILE.replace("-q dags loadsheet", "-q loadsheet")}),
        ("nothing is written", {"dockerfile": DOCKERFILE.replace("touch", "ls")}),
        ("all is ignored", {"dockerignore": DOCKERIGNORE.replace("*\n", "", 1)}),
        ("no secret", {"dockerignore": DOCKERIGNORE + "!.env\n"}),
        (
            "all that is copied",
            {"dockerfile": DOCKERFILE + "COPY --chown=airflow:root bench/ bench/\n"},
        ),
        ("all that runs", {"dockerignore": DOCKERIGNORE.replace("!operators/\n", "")}),
        ("all that is listed", {"dockerignore": DOCKERIGNORE + "!plugins/\n"}),
    ],
)
def test_an_image_that_differs_does_not_pass(problem: str, files: dict[str, str]) -> None:
    assert [found for found in problems(**files) if found.startswith(problem)]


def test_compose_names_the_image_after_the_pinned_airflow() -> None:
    airflow = re.findall(r"^apache-airflow==(\S+)", REQUIREMENTS, re.M)[0]
    built = {service["image"] for service in STACK["services"].values() if "build" in service}
    assert built == {f"loadsheet-airflow:{airflow}"}


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("amazon", "apache-airflow-providers-amazon"),
        ("celery", "apache-airflow-providers-celery"),
        ("fab", "apache-airflow-providers-fab"),
        ("git", "apache-airflow-providers-git"),
        ("hashicorp", "apache-airflow-providers-hashicorp"),
        ("kubernetes", "apache-airflow-providers-cncf-kubernetes"),
        ("redis", "apache-airflow-providers-redis"),
        ("statsd", "statsd"),
        ("parquet", "pyarrow"),
    ],
)
def test_an_extra_is_pinned_with_hashes_and_adds_only_what_the_requirements_lack(
    file: str, package: str
) -> None:
    extra = (ROOT / f"requirements/{file}.txt").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==.* \\\n    --hash=sha256:", extra, re.M)
    assert package in pins
    assert len(pins) == len(re.findall(r"^\S+==", extra, re.M))
    # Not those that the requirements have for Windows only.
    there = re.findall(r"^([a-z0-9._-]+)==(?!.*win32)", REQUIREMENTS, re.M)
    assert set(pins) & set(there) == set()


def test_the_extras_of_the_image_can_be_installed_together() -> None:
    names = re.findall(r"^!requirements/(\w+)\.txt$", DOCKERIGNORE, re.M)
    offered = re.findall(r"^IMAGE_EXTRAS := (.*)$", MAKEFILE, re.M)[0].split()
    assert sorted(names) == sorted(offered)
    pins: dict[str, str] = {}
    for name in names:
        text = (ROOT / f"requirements/{name}.txt").read_text()
        pinned = re.findall(r"^([a-z0-9._-]+)==(\S+) (?:; (.*) )?\\$", text, re.M)
        assert pinned
        for package, version, marker in pinned:
            assert pins.setdefault(f"{package} {marker}", version) == version, package
