"""The lake on servers that people run: what is asked of each, with which rights, and what is said
when it refuses.

The same tests run on rclone, on SeaweedFS and, with LOADSHEET_S3=url,key,secret, on any server.
None of them looks into a server's files.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import COMPLIANCE, GOVERNANCE
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention
from minio.versioningconfig import VersioningConfig
from typer.testing import CliRunner

from demo.servers import S3Server
from loadsheet.cli.main import app
from loadsheet.connections.lookup import Connection
from loadsheet.engine import garbage
from loadsheet.engine.diagnosis import Diagnosis, diagnose
from loadsheet.errors import LoadsheetError, Refused
from loadsheet.lake import parts
from loadsheet.lake.failure import LakeFailed
from loadsheet.lake.policy import bucket_policy
from loadsheet.lake.store import Lake
from loadsheet.postgres import connect_warehouse
from loadsheet.spec.pipeline_file import load_pipeline
from tests.lakes import GIVEN, SeaweedServer, given_endpoint
from tests.project import Project

BUCKET = "limited"
ACTIONS = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
ON_VERSIONS = ["s3:ListBucketVersions", "s3:DeleteObjectVersion"]


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    """The policy with one action less."""
    statements = []
    for statement in policy["Statement"]:
        left = [name for name in statement["Action"] if name != action]
        if left:
            statements.append({**statement, "Action": left})
    return {**policy, "Statement": statements}


def policies() -> dict[str, dict[str, Any]]:
    """Every policy of this file, by name."""
    least = bucket_policy(BUCKET, "shop")
    found = {"least": least}
    for action in ACTIONS:
        found[action] = without(least, action)
    found["creates"] = bucket_policy("created", "shop", create_bucket=True)
    found["creates not"] = bucket_policy("created", "shop")
    versioned = bucket_policy(BUCKET, "shop", versions=True)
    found["versions"] = versioned
    for action in ON_VERSIONS:
        found[action] = without(versioned, action)
    return found


@pytest.fixture(scope="module")
def seaweed() -> Iterator[SeaweedServer]:
    with SeaweedServer(policies()) as server:
        root(server).make_bucket(BUCKET)
        yield server


@pytest.fixture(params=["rclone", "seaweedfs", *(["given"] if GIVEN else [])])
def server(request: pytest.FixtureRequest) -> Any:
    if request.param == "given":
        return given_endpoint()
    return request.getfixturevalue({"rclone": "s3", "seaweedfs": "seaweed"}[request.param])


@pytest.fixture
def shop(project: Project, server: Any) -> Project:
    """A project on each of the servers."""
    return opened(replace(project, s3=server))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of some rows has several parts: what a whole table that has not changed had stored
    is removed again."""
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 1000)


def opened(project: Project) -> Project:
    project.in_source(
        "CREATE TABLE whole AS SELECT i AS id, md5(i::text) AS what FROM generate_series(1, 5000) i"
    )
    project.spec({"whole": {}})
    return project


def root(server: Any) -> Minio:
    return Minio(
        server.address,
        access_key=server.access_key,
        secret_key=server.secret_key,
        secure=server.endpoint.startswith("https"),
        region="us-east-1",
    )


def lake_of(project: Project, **fields: Any) -> Lake:
    return Lake(replace(project.connections("lake"), **fields), project.bucket)


def refusal(ask: Callable[[], object]) -> Diagnosis:
    with pytest.raises(LakeFailed) as refused:
        ask()
    found = diagnose(refused.value)
    assert found
    return found


def test_objects_come_back_and_are_labelled(shop: Project) -> None:
    lake = lake_of(shop)
    assert lake.exists("shop/") is False
    assert lake.create_bucket("shop/") is True and lake.create_bucket("shop/") is False
    contents = {"shop/a/manifest.json": b"{}", "shop/a/part-00000.csv.zst": b"x" * 6_000_000}
    for name, data in contents.items():
        lake.put(name, data)
    assert {name: lake.get(name, 1 << 30) for name in contents} == contents
    assert {stored.name: stored.size for stored in lake.listing("shop/")} == {
        name: len(data) for name, data in contents.items()
    }
    assert list(lake.names("shop/none/")) == [] and lake.get("shop/none", 9) is None
    label = root(shop.s3).stat_object(shop.bucket, "shop/a/manifest.json").content_type
    assert label == "application/json"
    for name in contents:
        assert lake.remove(name) is True
    lake.remove("shop/none")
    assert list(lake.names("shop/")) == [] and lake.exists("shop/") is True


def test_a_pipeline_runs_rests_and_cleans_up(shop: Project) -> None:
    shop.succeed()
    assert shop.differences("whole") == 0
    before = shop.objects()
    assert shop.succeed()["load.load_whole"] == "skipped" and shop.objects() == before
    shop.in_source("INSERT INTO whole VALUES (0, 'new')")
    shop.succeed()
    assert shop.differences("whole") == 0
    removal = garbage.remove(found_in(shop), lake_of(shop))
    assert removal.freed and not (removal.marked or removal.refusals)
    assert shop.objects() == shop.objects() - before


def found_in(project: Project, versions: bool = False) -> list[garbage.TableGarbage]:
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    with connect_warehouse(project.connections("warehouse")) as session:
        return garbage.find(pipeline, lake_of(project), session, timedelta(0), 1, versions)


def test_each_refusal_says_which_it_is(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, all of these were `AccessDenied`: HeadBucket has an answer without a body."""
    lake_of(shop).create_bucket("shop/")
    key = shop.s3.access_key
    principal = f"by access key {key[:4]}...{key[-4:]}"
    if len(key) < 16:
        principal = f"by access key {key[:3]}..."
    wrong = refusal(lambda: lake_of(shop, password="wrong-wrong").exists("shop/"))
    assert f"s3:ListBucket on {shop.bucket}/shop/ {principal}: " in wrong.text
    assert wrong.code == "S3 SignatureDoesNotMatch" and "does not belong" in str(wrong)
    unknown = refusal(lambda: lake_of(shop, login="AKIAUNKNOWNUNKNOWN").exists("shop/"))
    assert unknown.code in ("S3 InvalidAccessKeyId", "S3 AccessDenied") and "key" in str(unknown)
    monkeypatch.setattr("minio.api.time.utcnow", twenty_minutes_ago)
    late = refusal(lambda: lake_of(shop).exists("shop/"))
    if not isinstance(shop.s3, S3Server):  # rclone does not tell this apart
        assert late.code == "S3 RequestTimeTooSkewed" and "set the clocks" in str(late)
    monkeypatch.undo()
    gone = replace(shop, bucket=f"none-{secrets.token_hex(4)}")
    missing = refusal(lambda: lake_of(gone).put("shop/x", b"x"))
    assert missing.code == "S3 NoSuchBucket" and f"s3:PutObject on {gone.bucket}/shop/x" in str(
        missing
    )


def twenty_minutes_ago() -> Any:
    from minio.time import datetime, timezone

    return datetime.now(timezone.utc) - timedelta(minutes=20)


# What the least policy allows, and that it allows no more than that.


def limited(project: Project, seaweed: SeaweedServer, name: str, bucket: str = BUCKET) -> Project:
    return replace(project, s3=seaweed.limited(name), bucket=bucket)  # type: ignore[arg-type]


def attempt_all(project: Project) -> None:
    """A run, one with nothing new, one with new rows, and gc."""
    for statement in ("SELECT 1", "SELECT 1", "INSERT INTO whole VALUES (0, 'new')"):
        project.in_source(statement)
        project.succeed()
    garbage.remove(found_in(project), lake_of(project))


def test_the_least_policy_is_enough(project: Project, seaweed: SeaweedServer) -> None:
    shop = limited(project, seaweed, "least")
    attempt_all(opened(shop))
    assert shop.differences("whole") == 0
    with pytest.raises(LakeFailed):  # the control: it is a policy, and not every right
        lake_of(shop).put("other/x", b"x")


@pytest.mark.parametrize("action", ACTIONS)
def test_without_any_of_its_actions_it_is_not(
    project: Project, seaweed: SeaweedServer, action: str
) -> None:
    shop = opened(limited(project, seaweed, action))
    with pytest.raises((Refused, LakeFailed)) as refused:
        attempt_all(shop)
    error = refused.value
    text = str(diagnose(error)) if isinstance(error, LakeFailed) else str(error)
    key = shop.s3.access_key
    assert f"{action} on {BUCKET}/shop/" in text
    assert f"by access key {key[:4]}...{key[-4:]}: " in text and "S3 AccessDenied" in text
    assert "The key may not do this. Next: grant it the action" in text and key not in text


def test_creating_the_bucket_needs_one_more_right(project: Project, seaweed: SeaweedServer) -> None:
    shop = opened(limited(project, seaweed, "creates not", bucket="created"))
    with pytest.raises(LoadsheetError, match="s3:CreateBucket on created by access key"):
        shop.succeed()
    limited(shop, seaweed, "creates", bucket="created").succeed()
    assert shop.differences("whole") == 0


# A bucket that keeps versions.


@pytest.fixture
def versioned(project: Project, seaweed: SeaweedServer) -> Project:
    """Two loads, of which the first is garbage."""
    shop = opened(replace(project, s3=seaweed))  # type: ignore[arg-type]
    root(seaweed).make_bucket(shop.bucket)
    root(seaweed).set_bucket_versioning(shop.bucket, VersioningConfig("Enabled"))
    shop.succeed()
    shop.in_source("INSERT INTO whole VALUES (0, 'new')")
    shop.succeed()
    return shop


def stored_bytes(project: Project) -> int:
    return sum(stored.size for stored in lake_of(project).versions(""))


def test_gc_says_what_a_bucket_with_versions_keeps_and_removes_it_where_asked(
    versioned: Project,
) -> None:
    """Before, gc counted the bytes as removed."""
    before = stored_bytes(versioned)
    needed = versioned.objects()
    found = found_in(versioned)
    removal = garbage.remove(found, lake_of(versioned))
    size = sum(v.attempt.bytes for table in found for v in table.verdicts if v.remove)
    assert removal.all_marked.bytes == size > 0 and stored_bytes(versioned) == before
    needed = versioned.objects()
    assert not any(v.remove for table in found_in(versioned) for v in table.verdicts)
    again = found_in(versioned, versions=True)
    removal = garbage.remove(again, lake_of(versioned))
    assert (removal.marked, removal.refusals) == ({}, {})
    assert stored_bytes(versioned) == before - size
    assert versioned.objects() == needed
    assert {stored.name for stored in lake_of(versioned).versions("")} == needed


def test_the_command_says_it_too(versioned: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadsheet.cli.gc._age", lambda text: timedelta(0))

    def gc(*arguments: str) -> Any:
        command = ["--project", str(versioned.folder), "gc", "--keep", "1", *arguments]
        return CliRunner().invoke(app, command, env=versioned.environment())

    said = gc()
    assert said.exit_code == 0 and "the bucket keeps versions: " in said.stdout
    assert "bytes are not free yet; `loadsheet gc --versions` removes them for good" in said.stdout
    document = json.loads(gc("--versions", "--json").stdout)["pipelines"][0]
    assert document["marked"] == {"objects": 0, "bytes": 0} and document["refused"] == []
    assert document["tables"][0]["removed"]["bytes"] > 0


def test_gc_keeps_what_a_lock_protects_and_says_so(
    project: Project, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadsheet.cli.gc._age", lambda text: timedelta(0))
    shop = opened(replace(project, s3=seaweed))  # type: ignore[arg-type]
    root(seaweed).make_bucket(shop.bucket, object_lock=True)
    lock = ObjectLockConfig(COMPLIANCE, 1, DAYS)
    root(seaweed).set_object_lock_config(shop.bucket, lock)
    shop.succeed()
    shop.in_source("INSERT INTO whole VALUES (0, 'new')")
    shop.succeed()
    before = stored_bytes(shop)
    command = ["--project", str(shop.folder), "gc", "--keep", "1", "--versions"]
    said = CliRunner().invoke(app, command, env=shop.environment())
    assert said.exit_code == 1 and stored_bytes(shop) == before
    assert "shop: removed 0 abandoned attempts and 0 old loads (0 objects, 0 bytes)" in said.stdout
    assert "shop: 1 attempt stays, because the lake does not let" in said.stderr
    assert "s3:DeleteObjectVersion on" in said.stderr


@pytest.mark.parametrize("action", ON_VERSIONS)
def test_where_versions_may_not_be_removed_they_stay_and_that_is_said(
    versioned: Project, seaweed: SeaweedServer, action: str
) -> None:
    lake = Lake(
        Connection(
            conn_id="lake",
            login=seaweed.limited(action).access_key,
            password=seaweed.limited(action).secret_key,
            extra={"endpoint_url": seaweed.endpoint},
        ),
        BUCKET,
    )
    if action == "s3:ListBucketVersions":
        assert (
            "s3:ListBucketVersions on limited/shop/"
            in refusal(lambda: list(lake.versions("shop/"))).text
        )
        return
    found = found_in(versioned, versions=True)
    before = stored_bytes(versioned)
    removal = garbage.remove(found, lake)
    assert removal.refusals and stored_bytes(versioned) == before
    assert all(error.code == "AccessDenied" for error in removal.refusals.values())


KINDS = ["never", "enabled", "suspended", "suspended after", "suspended between"]
LOCKS = ["", "compliance", "governance", "hold", "a part", "the manifest"]


@pytest.mark.parametrize("versions", [False, True])
@pytest.mark.parametrize(
    ("kind", "lock"),
    [*((kind, "") for kind in KINDS), *(("enabled", lock) for lock in LOCKS[1:])],
)
def test_what_gc_tells_is_what_the_bucket_holds_then(
    project: Project,
    seaweed: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    lock: str,
    versions: bool,
) -> None:
    """Before, an attempt of which a part was locked was counted as kept with all of its bytes, and
    what is removed for good in a bucket whose versioning is suspended as not free."""
    monkeypatch.setattr("loadsheet.cli.gc._age", lambda text: timedelta(0))
    shop = opened(replace(project, s3=seaweed))  # type: ignore[arg-type]
    server = root(seaweed)
    server.make_bucket(shop.bucket, object_lock=bool(lock))

    def set_versioning(status: str) -> None:
        server.set_bucket_versioning(shop.bucket, VersioningConfig(status))

    if kind == "enabled" or kind.startswith("suspended "):
        set_versioning("Enabled")
    elif kind == "suspended":
        set_versioning("Suspended")
    shop.succeed()
    old = sorted(shop.objects())
    if kind == "suspended between":
        set_versioning("Suspended")
    shop.in_source("INSERT INTO whole VALUES (0, 'new')")
    shop.succeed()
    if kind == "suspended after":
        set_versioning("Suspended")
    if lock:
        until = datetime.now(UTC) + timedelta(hours=1)
        found = [v for t in found_in(shop, versions=True) for v in t.verdicts if v.remove]
        (attempt,) = [verdict.attempt for verdict in found]
        for stored in attempt.objects:
            is_manifest = stored.name == attempt.manifest
            if (lock, is_manifest) in (("a part", True), ("the manifest", False)):
                continue
            if lock == "hold":
                server.enable_object_legal_hold(shop.bucket, stored.name, stored.version)
                continue
            mode = GOVERNANCE if lock == "governance" else COMPLIANCE
            held = Retention(mode, until)
            server.set_object_retention(shop.bucket, stored.name, held, stored.version)
    before = stored_bytes(shop)
    arguments = ["gc", "--keep", "1", "--json", *(["--versions"] if versions else [])]
    command = ["--project", str(shop.folder), *arguments]
    done = CliRunner().invoke(app, command, env=shop.environment())
    assert done.exit_code in (0, 1), done.output
    after = stored_bytes(shop)
    (said,) = json.loads(done.stdout)["pipelines"]
    removed = sum(table["removed"]["bytes"] for table in said["tables"])
    kept = sum(table["kept"]["bytes"] for table in said["tables"])
    assert removed == before - after, (said, old)
    assert after == kept + said["marked"]["bytes"]
    garbage_left = set(old) - set(shop.objects())
    assert bool(said["refused"]) == (done.exit_code == 1) == bool(versions and lock)
    if not said["refused"]:
        assert garbage_left


def test_a_key_that_may_not_remove_is_told_so_once_and_nothing_is_counted(
    versioned: Project, seaweed: SeaweedServer
) -> None:
    """Before, gc ended in the middle, without a word about what it had removed."""
    lake = Lake(
        Connection(
            conn_id="lake",
            login=seaweed.limited("s3:DeleteObject").access_key,
            password=seaweed.limited("s3:DeleteObject").secret_key,
            extra={"endpoint_url": seaweed.endpoint},
        ),
        BUCKET,
    )
    before = stored_bytes(versioned)
    removal = garbage.remove(found_in(versioned), lake)
    assert removal.refusals and stored_bytes(versioned) == before
    assert all(amount.bytes == 0 for amount in removal.freed.values()) and not removal.marked
