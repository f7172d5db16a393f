"""Licence, policies, forms and workflows are complete and agree with the project."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {file.stem: file.read_text(encoding="utf-8") for file in GITHUB.glob("workflows/*.yml")}
FORMS = sorted(GITHUB.glob("ISSUE_TEMPLATE/*_*.yml"))
TEXTS = [
    *("CODE_OF_CONDUCT.md", "SECURITY.md", "NOTICE", "Makefile", "scripts/release.py"),
    *(str(file.relative_to(ROOT)) for file in GITHUB.rglob("*") if file.is_file()),
]

# The text as the Apache Software Foundation publishes it.
LICENCE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
# Packages come from the index that the machine is set up with; no file names one.
INDEX = re.compile(r"https?://|index-url|find-links")
# An action moves with its major version; the publish action's maintainers name a branch for it.
PINNED = re.compile(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)")
# Each job that may write, and why it has to.
WRITES = {
    ("release", "publish"): {"id-token"},
    ("release", "announce"): {"contents"},
    ("release", "image"): {"packages"},
    ("image", "push"): {"packages"},
}


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


def workflow_problems(name: str, text: str) -> list[str]:
    """The problems of one workflow: its pins, permissions, targets and shell lines."""
    workflow = yaml.safe_load(text)
    problems = []
    if workflow.get("permissions") != {"contents": "read"}:
        problems.append("permissions: the default is not contents: read")
    if not workflow.get("concurrency"):
        problems.append("concurrency: not limited")
    for job, keys in workflow["jobs"].items():
        granted = keys.get("permissions", {}).items()
        writes = {scope for scope, right in granted if right == "write"}
        if writes - WRITES.get((name, job), set()):
            problems.append(f"permissions: {job} may write {', '.join(sorted(writes))}")
        if "steps" in keys and "timeout-minutes" not in keys:
            problems.append(f"timeout: {job} has none")
    for step in steps(workflow):
        action = step.get("uses")
        if action and not PINNED.fullmatch(action):
            problems.append(f"pin: {action}")
        keeps_token = step.get("with", {}).get("persist-credentials") is not False
        if action and action.startswith("actions/checkout@") and keeps_token:
            problems.append("checkout: keeps the credentials")
        line = step.get("run", "")
        problems += [f"target: {name}" for name in made(line) - targets()]
        # A branch or tag can be named like a command. In `env` it stays a value.
        if "${{" in line:
            problems.append(f"expression in a shell line: {line}")
    if re.search(r"secrets\.|password: (?!\$\{\{ github\.token)", text):
        problems.append("secret: only the token of the workflow itself is used")
    return problems


def made(text: str) -> set[str]:
    """The targets of all `make X` in `text`."""
    return set(re.findall(r"\bmake ([a-z][a-z-]*)", text))


def test_the_licence_is_the_complete_text_and_named_in_the_project() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == LICENCE_SHA256
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]


def test_the_licence_is_in_the_container_image() -> None:
    listed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in PROJECT["license-files"]} <= set(listed)


def test_the_notice_names_the_project_and_a_copyright() -> None:
    first, second = (ROOT / "NOTICE").read_text(encoding="utf-8").splitlines()
    assert first == "Loadsheet"
    assert re.fullmatch(r"Copyright \d{4} The Loadsheet authors", second)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_pinned_and_has_no_more_rights_than_it_needs(name: str) -> None:
    assert workflow_problems(name, WORKFLOWS[name]) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("ci", "make lint", "make lnit", "target: lnit"),
        ("ci", "checkout@v6", "checkout@main", "pin: actions/checkout@main"),
        ("ci", "actions/checkout@v6", "actions/checkout", "pin: actions/checkout"),
        ("ci", "contents: read", "contents: write", "permissions: the default"),
        ("ci", "permissions:\n  contents: read\n", "", "permissions: the default"),
        ("ci", "concurrency:", "env:", "concurrency:"),
        ("ci", "    timeout-minutes: 60\n", "", "timeout: test has none"),
        ("ci", "{persist-credentials: false}", "{fetch-depth: 0}", "checkout: keeps"),
        ("ci", "make docs", "make docs ${{ github.head_ref }}", "expression in a shell line"),
        (
            "release",
            "id-token: write",
            "contents: write",
            "permissions: publish may write contents",
        ),
        ("release", "github.token", "secrets.TOKEN", "secret:"),
        ("image", "${{ github.token }}", "1234", "secret:"),
    ],
)
def test_a_workflow_with_a_mistake_fails(name: str, old: str, new: str, problem: str) -> None:
    assert old in WORKFLOWS[name]
    found = workflow_problems(name, WORKFLOWS[name].replace(old, new, 1))
    assert [each for each in found if each.startswith(problem)]


def test_the_workflows_run_the_targets_that_developers_run() -> None:
    called = {
        name: {line for step in steps(yaml.safe_load(text)) for line in made(step.get("run", ""))}
        for name, text in WORKFLOWS.items()
    }
    in_ci = {"lint", "docs", "test", "test-airflow", "test-compose", "build"}
    assert called == {"audit": {"audit"}, "ci": in_ci, "image": {"image"}, "release": set()}


def test_a_release_runs_the_tests_before_anything_is_published() -> None:
    jobs = yaml.safe_load(WORKFLOWS["release"])["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "check": None,
        "ci": "check",
        "image": "ci",
        "publish": "image",
        "announce": "publish",
    }
    for job in ("ci", "image"):
        assert (ROOT / jobs[job]["uses"]).is_file()


def test_the_tested_python_versions_are_those_of_the_classifiers() -> None:
    tested = yaml.safe_load(WORKFLOWS["ci"])["jobs"]["test"]["strategy"]["matrix"]["python"]
    versions = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert tested == versions
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_a_form_has_fields_with_ids_of_their_own(file: Path) -> None:
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_the_bug_form_asks_for_the_version_and_the_report() -> None:
    text = (GITHUB / "ISSUE_TEMPLATE/bug_report.yml").read_text(encoding="utf-8")
    assert "`loadsheet --version`" in text
    assert "Bug-report file" in text


def test_dependabot_reads_folders_that_exist() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    folders = {each["package-ecosystem"]: each["directory"] for each in updates}
    assert folders == {"pip": "/requirements", "github-actions": "/", "docker": "/"}
    assert (ROOT / "requirements").is_dir()
    assert (ROOT / "Dockerfile").is_file()


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_names_targets_that_exist_and_no_package_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set().union(*(made(code) for code in re.findall(r"`([^`\n]+)`", text)))
    assert named <= targets()
    assert INDEX.findall(text) == []


def test_the_links_of_the_policies_lead_to_files() -> None:
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert (ROOT / link).is_file(), f"{name}: {link}"


def test_the_pinned_requirements_name_no_index() -> None:
    files = [ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")]
    naming = [file.name for file in files if INDEX.search(file.read_text(encoding="utf-8"))]
    assert naming == []


def test_what_builds_a_release_is_pinned() -> None:
    pins = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    assert re.search(r"^build==\S+ \\\n    --hash=sha256:", pins, re.MULTILINE)
    assert re.search(r"^setuptools==\S+ \\\n    --hash=sha256:", pins, re.MULTILINE)
