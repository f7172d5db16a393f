"""The folder of DAG files that stands for a project's pipelines: what is in it, and when Airflow is
told to look."""

from __future__ import annotations

import ast
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadsheet.airflow.stubs import Stubs, mark
from tests.users import AS_ROOT, NOBODY, nobody

OLD = 1_000_000_000_000_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        add(tmp_path / "project", name)
    return tmp_path / "project"


@pytest.fixture
def stubs(project: Path, tmp_path: Path) -> Stubs:
    made = Stubs(project, tmp_path / "storage", forget=-5)
    made.refresh()
    settle(made)
    return made


def add(project: Path, name: str, text: str = "version: 1\n") -> Path:
    file = project / "pipelines" / name / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(text)
    return file


def settle(stubs: Stubs) -> None:
    """As if every file had been parsed long ago."""
    for name in names(stubs):
        os.utime(stubs.dags / name, ns=(OLD, OLD))
        mark(stubs.dags / name, OLD + 1, "")


def names(stubs: Stubs) -> list[str]:
    return sorted(file.name for file in stubs.dags.glob("*.yml.py"))


def stamped(stubs: Stubs) -> set[str]:
    """The files that a refresh tells Airflow to parse."""
    stubs.refresh()
    return {name for name in names(stubs) if (stubs.dags / name).stat().st_mtime_ns > OLD}


def test_every_pipeline_file_has_one_and_nothing_else_has(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "no_file").mkdir()
    add(project, ".hidden")
    stubs.refresh()
    assert names(stubs) == ["one.yml.py", "two.yml.py"]
    assert not (set(project.rglob("*.py")) or set(project.rglob("*pipelines-*")))


def test_nothing_happens_while_nothing_changes(stubs: Stubs) -> None:
    inodes = [(stubs.dags / name).stat().st_ino for name in names(stubs)]
    assert stamped(stubs) == stamped(stubs) == set()
    assert inodes == [(stubs.dags / name).stat().st_ino for name in names(stubs)]


@pytest.mark.parametrize("edited", ["pipeline.yml", "sql/mart.sql"])
def test_an_edit_is_passed_on_whatever_time_the_file_says(
    project: Path, stubs: Stubs, edited: str
) -> None:
    file = project / "pipelines" / "one" / edited
    file.write_text("something else")
    os.utime(file, ns=(OLD, OLD))  # as `cp -p` or `mv` leave it
    assert stamped(stubs) == {"one.yml.py"}


def replaced(file: Path, text: str) -> None:
    """On ext4 the new file has the old one's inode number."""
    file.unlink()
    file.write_text(text)


@pytest.mark.parametrize("edit", [Path.write_text, replaced])
def test_an_edit_that_keeps_size_and_time_is_an_edit(
    project: Path, stubs: Stubs, edit: Callable[[Path, str], None]
) -> None:
    file = project / "pipelines" / "one" / "pipeline.yml"
    before = file.stat()
    edit(file, file.read_text().replace("1", "2"))
    # as files of an archive, all of one time
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert stamped(stubs) == {"one.yml.py"}


def test_a_folder_that_cannot_be_looked_into_stops_no_other(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "loop").symlink_to("loop")
    (project / "pipelines" / "a_file").write_text("")
    (project / "pipelines" / "one" / "pipeline.yml").write_text("edited")
    assert stamped(stubs) == {"one.yml.py"}


def test_deleted_sql_is_an_edit(project: Path, stubs: Stubs) -> None:
    file = project / "pipelines" / "two" / "sql" / "mart.sql"
    file.write_text("SELECT 1")
    stubs.refresh()
    settle(stubs)
    stubs.refresh()
    settle(stubs)
    file.unlink()
    assert stamped(stubs) == {"two.yml.py"}


def test_an_edit_during_a_parse_is_passed_on_until_a_parse_began_after_it(
    project: Path, tmp_path: Path
) -> None:
    stubs = Stubs(project, tmp_path / "storage")
    stubs.refresh()
    settle(stubs)
    (project / "pipelines" / "one" / "pipeline.yml").write_text("edited while Airflow parses")
    assert stamped(stubs) == {"one.yml.py"}
    first = (stubs.dags / "one.yml.py").stat().st_mtime_ns
    time.sleep(0.01)
    stubs.refresh()
    again = (stubs.dags / "one.yml.py").stat().st_mtime_ns
    assert again > first  # the parse that runs began before the edit
    mark(stubs.dags / "one.yml.py", time.time_ns())
    stubs.refresh()
    assert (stubs.dags / "one.yml.py").stat().st_mtime_ns == again


def test_an_edited_file_is_parsed_once_more_so_that_airflow_forgets_its_old_name(
    project: Path, stubs: Stubs
) -> None:
    (project / "pipelines" / "one" / "pipeline.yml").write_text("pipeline: renamed")
    stubs.refresh()
    settle(stubs)  # with forget=-5, the time is over at once
    assert stamped(stubs) == {"one.yml.py"}
    settle(stubs)
    assert stamped(stubs) == set()


class TestANameThatTwoFilesClaim:
    """`two` calls itself `one`. Which of the two has the name is looked at again when that may have
    changed."""

    @pytest.fixture
    def claimed(self, stubs: Stubs) -> Stubs:
        mark(stubs.dags / "two.yml.py", OLD + 1, "one")
        stubs.refresh()
        self.settle(stubs)
        assert self.parsed_anew(stubs) == set()
        return stubs

    @staticmethod
    def settle(stubs: Stubs) -> None:
        """As if every file had been parsed long ago, and had found the same name as before."""
        for _ in range(2):  # the second time for the parse that follows an edit
            for name in names(stubs):
                os.utime(stubs.dags / name, ns=(OLD, OLD))
                mark(stubs.dags / name, OLD + 1)
            stubs.refresh()

    def parsed_anew(self, stubs: Stubs) -> set[str]:
        for name in names(stubs):
            os.utime(stubs.dags / name, ns=(OLD, OLD))
        return stamped(stubs)

    def test_when_the_first_is_gone(self, project: Path, claimed: Stubs) -> None:
        (project / "pipelines" / "one" / "pipeline.yml").unlink()
        assert self.parsed_anew(claimed) == {"two.yml.py"}

    def test_when_the_first_has_got_another_name(self, claimed: Stubs) -> None:
        mark(claimed.dags / "one.yml.py", OLD + 1, "other")
        assert self.parsed_anew(claimed) == {"two.yml.py"}

    def test_when_the_first_comes_back_and_a_worker_has_made_its_file(
        self, project: Path, claimed: Stubs, tmp_path: Path
    ) -> None:
        shutil.move(project / "pipelines" / "one", project / "away")
        claimed.refresh()
        self.settle(claimed)
        shutil.move(project / "away", project / "pipelines" / "one")
        Stubs(project, tmp_path / "storage").add()
        assert "two.yml.py" in self.parsed_anew(claimed)

    def test_when_a_third_claims_it(self, project: Path, claimed: Stubs) -> None:
        add(project, "three")
        claimed.refresh()
        self.settle(claimed)
        mark(claimed.dags / "three.yml.py", OLD + 1, "one")
        assert self.parsed_anew(claimed) == {"two.yml.py"}

    def test_but_not_when_something_else_changes(self, project: Path, claimed: Stubs) -> None:
        add(project, "three")
        (project / "pipelines" / "one" / "pipeline.yml").write_text("edited")
        assert self.parsed_anew(claimed) == {"one.yml.py", "three.yml.py"}

    def test_nor_while_it_is_parsed(self, claimed: Stubs) -> None:
        mark(claimed.dags / "two.yml.py", OLD + 2)
        assert self.parsed_anew(claimed) == set()


def test_a_deleted_pipelines_file_goes_and_comes_back_with_it(project: Path, stubs: Stubs) -> None:
    file = project / "pipelines" / "one" / "pipeline.yml"
    file.unlink()
    stubs.refresh()
    assert names(stubs) == ["two.yml.py"]
    file.write_text("version: 1\n")
    assert stamped(stubs) == {"one.yml.py"}


def test_a_worker_adds_what_is_missing_and_takes_nothing_away(
    project: Path, stubs: Stubs, tmp_path: Path
) -> None:
    add(project, "three")
    (project / "pipelines" / "one" / "pipeline.yml").unlink()
    Stubs(project, tmp_path / "storage").add()
    assert names(stubs) == ["one.yml.py", "three.yml.py", "two.yml.py"]


def test_many_processes_at_once_agree(project: Path, tmp_path: Path) -> None:
    for number in range(50):
        add(project, f"p{number}")
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(Stubs(project, tmp_path / "at_once").refresh) for _ in range(16)]:
            done.result()
    stubs = Stubs(project, tmp_path / "at_once")
    assert len(names(stubs)) == 52 and sorted(
        file.name for file in stubs.dags.parent.iterdir()
    ) == [
        ".gitignore",
        "alerts",
        "dags",
        "messages",
        "parsed",
        "threads",
    ]


def test_a_missing_folder_of_pipelines_is_a_wrong_path_and_removes_nothing(
    project: Path, stubs: Stubs
) -> None:
    (project / "pipelines").rename(project / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is not a project: it has no folder `pipelines`"):
        stubs.refresh()
    assert names(stubs) == ["one.yml.py", "two.yml.py"]


@AS_ROOT
def test_another_users_folder_is_refused(project: Path, stubs: Stubs) -> None:
    os.chown(stubs.dags, 12345, 12345)
    with pytest.raises(
        PermissionError, match=r"belongs to another user, and Airflow .*: remove it, or set"
    ):
        stubs.refresh()


def test_a_folder_that_everybody_may_write_is_refused(project: Path, stubs: Stubs) -> None:
    stubs.dags.chmod(0o777)
    with pytest.raises(PermissionError, match="every user may write to"):
        stubs.refresh()


def test_whatever_the_umask_nobody_else_may_write(project: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Stubs(project, tmp_path / "open").refresh()
    finally:
        os.umask(before)

    assert not (tmp_path / "open").stat().st_mode & 0o002


def planted_folder(home: Path) -> None:
    with nobody():
        (home / "dags").mkdir(parents=True)
        (home / "dags" / "one.yml.py").write_text("raise SystemExit('planted')")


def planted_storage(home: Path) -> None:
    with nobody():
        home.parent.mkdir()


def planted_link(home: Path) -> None:
    with nobody():
        (home.parents[1] / "theirs").mkdir()
        home.parent.symlink_to(home.parents[1] / "theirs")


def open_storage(home: Path) -> None:
    home.parent.mkdir()
    home.parent.chmod(0o777)


@AS_ROOT
@pytest.mark.parametrize("plant", [planted_folder, planted_storage, planted_link, open_storage])
def test_a_worker_runs_nothing_that_another_user_could_have_planted(
    project: Path, plant: Callable[[Path], None]
) -> None:
    """Only `refresh`, of the DAG processor, has looked: a worker's `initialize` took what was
    there."""
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o1777)
        stubs = Stubs(project, Path(tmp) / "storage")
        plant(stubs.home)
        with pytest.raises(PermissionError, match="and Airflow runs the Python files below it"):
            stubs.add()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@AS_ROOT
def test_a_pipeline_that_may_not_be_read_keeps_its_file_which_says_so(shared: Path) -> None:
    add(shared, "open")
    add(shared, "shut").parent.chmod(0)
    (shared / "storage").mkdir()
    os.chown(shared / "storage", NOBODY, NOBODY)
    with nobody():
        stubs = Stubs(shared, shared / "storage")
        stubs.refresh()
        assert names(stubs) == ["open.yml.py", "shut.yml.py"]


@AS_ROOT
def test_a_file_made_by_another_user_hides_no_edit(shared: Path) -> None:
    for name in ("one", "two"):
        add(shared, name)
    (shared / "storage").mkdir()
    os.chown(shared / "storage", NOBODY, NOBODY)
    with nobody():
        stubs = Stubs(shared, shared / "storage")
        stubs.refresh()
        settle(stubs)
    for name in ("one", "two"):
        os.chown(stubs.dags / f"{name}.yml.py", 12345, 12345)
        (shared / "pipelines" / name / "pipeline.yml").write_text("edited")
    with nobody():
        assert stamped(stubs) == {"one.yml.py", "two.yml.py"}


@AS_ROOT
def test_a_parse_by_another_user_does_not_have_the_file_parsed_for_ever(shared: Path) -> None:
    add(shared, "one")
    (shared / "storage").mkdir()
    os.chown(shared / "storage", NOBODY, NOBODY)
    with nobody():
        stubs = Stubs(shared, shared / "storage")
        stubs.refresh()
    mark(stubs.dags / "one.yml.py", OLD)  # root has run `airflow dags reserialize`
    with nobody():
        stubs.refresh()
        mark(stubs.dags / "one.yml.py", time.time_ns())
        before = (stubs.dags / "one.yml.py").stat().st_mtime_ns
        stubs.refresh()
        assert (stubs.dags / "one.yml.py").stat().st_mtime_ns == before


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can be made, and nothing can be written into them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind_and_is_made_up_for(project: Path, stubs: Stubs) -> None:
    add(project, "three")
    with full_disk(), pytest.raises(OSError):
        stubs.refresh()
    assert names(stubs) == ["one.yml.py", "two.yml.py"]
    assert sorted(file.name for file in stubs.dags.parent.iterdir()) == [
        ".gitignore",
        "alerts",
        "dags",
        "messages",
        "parsed",
        "threads",
    ]
    stubs.refresh()
    assert names(stubs) == ["one.yml.py", "three.yml.py", "two.yml.py"]


@pytest.mark.parametrize("mended_by", [Stubs.add, Stubs.refresh])
def test_an_empty_file_is_a_missing_one(
    project: Path, stubs: Stubs, mended_by: Callable[[Stubs], None]
) -> None:
    file = stubs.dags / "one.yml.py"
    before = file.read_text()
    file.write_text("")  # what a power failure may leave
    mended_by(stubs)
    assert file.read_text() == before


def test_a_link_to_nowhere_is_a_mistake_that_airflow_shows(project: Path, stubs: Stubs) -> None:
    (project / "pipelines" / "three").mkdir()
    (project / "pipelines" / "three" / "pipeline.yml").symlink_to("gone.yml")
    stubs.refresh()
    assert "three.yml.py" in names(stubs)


def test_no_folders_name_hides_another(project: Path, stubs: Stubs) -> None:
    before = set(names(stubs))
    add(project, "two words")
    stubs.refresh()
    (new,) = set(names(stubs)) - before
    for twin in (new.removesuffix(".yml.py"), new.removesuffix("+.yml.py")):
        add(project, twin)
    stubs.refresh()
    assert len(names(stubs)) == 5


def test_two_projects_never_share_a_folder(project: Path, tmp_path: Path) -> None:
    add(tmp_path / "other", "one")
    assert Stubs(project, tmp_path).dags != Stubs(tmp_path / "other", tmp_path).dags


@pytest.mark.parametrize(
    "folder",
    [
        "a'\"\nimport os\n",
        "{project}",
        "x" * 240,
        "Ünï",
        "two words",
        b"\xff".decode(errors="surrogateescape"),
    ],
)
def test_a_folders_name_is_only_ever_data(project: Path, stubs: Stubs, folder: str) -> None:
    try:
        add(project, folder)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such names")
    stubs.refresh()
    (new,) = set(names(stubs)) - {"one.yml.py", "two.yml.py"}
    imports, assignment = ast.parse((stubs.dags / new).read_text()).body
    assert isinstance(imports, ast.ImportFrom) and isinstance(assignment, ast.Assign)
    assert isinstance(assignment.value, ast.Call)
    assert [ast.literal_eval(value) for value in assignment.value.args[1:]] == [
        str(project),
        folder,
    ]
    new.encode()
