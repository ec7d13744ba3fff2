"""The checks of `make dist`: what a release contains, its version, its licenses, its changelog."""

import importlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hierax

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tools of the release need a folder of git")


def tool(name: str) -> Any:
    """A module of tools/, which has short names that the other tests must not find."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before


project, contents, changes, sbom, dist = (tool(name) for name in ("project", "contents", "changes", "sbom", "dist"))


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    return project.tracked()


# -- contents ---------------------------------------------------------------------------------------------------------


def wheel_of(tracked: list[str]) -> dict[str, int]:
    """The files of a wheel that is as it should be, and their sizes."""
    info = f"hierax-{project.version()}.dist-info/"
    package = [name.removeprefix("src/") for name in tracked if name.startswith("src/hierax/")]
    return dict.fromkeys([*package, *(info + name for name in contents.METADATA)], 10)


def test_a_wheel_with_the_files_of_the_package_has_no_problem(tracked: list[str]) -> None:
    assert contents.problems_of_wheel(wheel_of(tracked), tracked, project.version()) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tests/test_cli.py", "unexpected file: tests/test_cli.py"),
        ("hierax/notes.txt", "unexpected file: hierax/notes.txt"),
        ("hierax/cli/__pycache__/x.cpython-311.pyc", "a temporary file or a cache: hierax/cli/__pycache__/x.cpython"),
        ("hierax/.DS_Store", "a temporary file or a cache: hierax/.DS_Store"),
    ],
)
def test_a_file_that_does_not_belong_in_a_wheel_is_named(name: str, problem: str, tracked: list[str]) -> None:
    found = contents.problems_of_wheel({**wheel_of(tracked), name: 1}, tracked, project.version())
    assert any(text.startswith(problem) for text in found)


@pytest.mark.parametrize("name", [*contents.NEEDED, *(f"hierax-0.1.0.dist-info/{n}" for n in contents.LICENSES)])
def test_a_file_that_lacks_in_a_wheel_is_named(name: str, tracked: list[str]) -> None:
    files = wheel_of(tracked)
    del files[name]
    assert contents.problems_of_wheel(files, tracked, "0.1.0") == [f"missing file: {name}"]


def test_an_asset_that_git_does_not_have_is_missing_too(tracked: list[str]) -> None:
    lost = "hierax/assets/femto/model.safetensors"
    files = wheel_of(tracked)
    del files[lost]
    rest = [name for name in tracked if name != f"src/{lost}"]
    assert contents.problems_of_wheel(files, rest, project.version()) == [f"missing file: {lost}"]


def test_a_source_archive_has_all_files_but_those_of_hosted_checks(tracked: list[str]) -> None:
    files = dict.fromkeys([name for name in tracked if not name.startswith((".ci/", ".github/"))] + ["PKG-INFO"], 10)
    assert contents.problems_of_sdist(files, tracked) == []
    files["dist/hierax-0.0.1.tar.gz"] = 10
    del files["docs/log.md"]
    assert contents.problems_of_sdist(files, tracked) == [
        "missing file: docs/log.md",
        "unexpected file: dist/hierax-0.0.1.tar.gz",
    ]


def test_large_files_and_archives_are_named(tracked: list[str], tmp_path: Path) -> None:
    files = {**wheel_of(tracked), "hierax/py.typed": 9_000_000}
    assert contents.problems_of_wheel(files, tracked, project.version()) == ["hierax/py.typed has 9,000,000 bytes"]
    archive = tmp_path / "hierax-0.1.0-py3-none-any.whl"
    archive.touch()
    assert contents.problem_of_size(archive) == []
    with archive.open("wb") as file:
        file.truncate(20_500_000)
    assert contents.problem_of_size(archive) == [f"{archive.name} has 20.5 MB; the limit is 20 MB"]


def test_the_version_of_a_wheel_is_read_from_its_metadata(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("hierax-9.dist-info/METADATA", "Metadata-Version: 2.4\nName: hierax\nVersion: 9\n\ntext")
    assert contents.metadata(tmp_path / "a.whl")["Version"] == "9"


def test_every_extra_of_users_is_used_by_the_check_of_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE)) - set(tool("check_wheel").DEVELOPERS)
    assert extras | {"core"} == set(tool("smoke").CHECKS)


# -- version and changelog --------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert project.version() == hierax.__version__ == project.cited_version() == project.changelog()[0]


def test_the_records_of_this_version_have_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert dist.problems_of_records() == []


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A small project of git with a release of version 0.1.0, and version 0.2.0 after it."""
    (tmp_path / "tests" / "data").mkdir(parents=True)
    write(tmp_path, "0.1.0", "hierax.load(source)\nclass hierax.Old(object)(a)\n  hierax.Old.run(self)\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"], ["tag", "v0.1.0"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *command], check=True)
    write(tmp_path, "0.2.0", "hierax.load(source, task=None)\nclass hierax.New(object)(a)\n  hierax.New.run(self)\n")
    return tmp_path


def write(folder: Path, version: str, surface: str) -> None:
    (folder / "pyproject.toml").write_text(f'[project]\nname = "hierax"\nversion = "{version}"\n')
    (folder / "CITATION.cff").write_text(f"title: hierax\nversion: {version}\n")
    (folder / changes.SURFACE).write_text(surface)


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("- `New` replaces `Old`. `load` has the argument `task`.", []),
        ("- `New` replaces `Old`.", ["load"]),
        ("- `load_all` is faster.", ["New", "Old", "load"]),
    ],
)
def test_public_names_that_changed_must_be_in_the_changelog(text: str, lacking: list[str], other: Path) -> None:
    assert changes.not_mentioned(other, text) == [
        f"CHANGELOG.md does not mention hierax.{name}, which differs from v0.1.0" for name in lacking
    ]


def test_a_changed_member_is_named_and_those_of_a_new_class_are_not() -> None:
    before = "class hierax.A(object)()\n  hierax.A.run(self)\n"
    now = "class hierax.A(object)()\n  hierax.A.run(self, x)\nclass hierax.B(object)()\n  hierax.B.run(self)\n"
    assert changes.changed(before, now) == ["hierax.A.run", "hierax.B"]


@pytest.mark.parametrize("heading", ["## 0.2.0", "## Unreleased", "## 0.2.0 (soon)", "### Fixes"])
def test_a_heading_of_the_changelog_in_another_form_is_an_error(heading: str, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- one\n")
    with pytest.raises(ValueError, match=r"the first heading must be '## VERSION \(unreleased\)'"):
        project.changelog(tmp_path)


def test_the_newest_entry_of_the_changelog_ends_at_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- two\n\n## 0.1.0 (2026-11-30)\n\n- one\n"
    )
    assert project.changelog(tmp_path) == ("0.2.0", "2026-12-01", "\n\n- two\n")


def test_versions_that_differ_are_named(other: Path) -> None:
    (other / "CITATION.cff").write_text("version: 0.1.0\n")
    (other / "CHANGELOG.md").write_text("# Changelog\n\n## 0.3.0 (2026-12-01)\n\n`New`, `Old`, `load`\n")
    assert dist.problems_of_records(other)[:2] == [
        "pyproject.toml has version 0.2.0, CITATION.cff 0.1.0",
        "pyproject.toml has version 0.2.0, the newest entry of CHANGELOG.md 0.3.0",
    ]


# -- licenses ---------------------------------------------------------------------------------------------------------


def test_all_that_others_made_is_in_the_list_of_licenses(tracked: list[str]) -> None:
    listed = {file["fileName"] for file in json.loads(sbom.TARGET.read_text(encoding="utf-8"))["files"]}
    kinds = (".jpg", ".png", ".safetensors", ".txt", ".ttf", ".woff2", ".csv")
    assert listed == {
        f"./{n.removeprefix('src/')}" for n in tracked if n.startswith("src/hierax/") and n.endswith(kinds)
    }
    assert sbom.current(files=tracked) == sbom.TARGET.read_text(encoding="utf-8"), "python tools/sbom.py"


def test_a_picture_of_unknown_origin_is_an_error(tracked: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^src/hierax/assets/photos/dog\.jpg: its origin is not known"):
        sbom.origins(ROOT, [*tracked, "src/hierax/assets/photos/dog.jpg"])


def test_a_credit_without_its_picture_is_an_error(tracked: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^src/hierax/assets/cat\.jpg is listed, but it does not exist$"):
        sbom.origins(ROOT, [name for name in tracked if name != "src/hierax/assets/cat.jpg"])


def test_a_script_with_the_notice_of_somebody_else_is_an_error(tracked: list[str], tmp_path: Path) -> None:
    for name in (name for name in tracked if name.startswith("src/hierax/")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    script = "src/hierax/assets/serve/zoom.js"
    (tmp_path / script).write_text("/*! zoom 1.2 | Copyright (c) 2020 Somebody | MIT */\n")
    with pytest.raises(ValueError, match=r"zoom\.js contains 'Copyright \(c\)'"):
        sbom.origins(tmp_path, [*tracked, script])


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_builds_have_the_same_bytes_and_the_right_contents(tmp_path: Path) -> None:
    archives, differences = dist.built_twice(ROOT, tmp_path)
    assert differences == []
    assert [archive.suffix for archive in archives] == [".whl", ".gz"]
    assert dist.problems_of_archives(archives) == []
    dist.publish(archives, tmp_path / "out")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
