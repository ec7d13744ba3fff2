"""Builds the wheel and the source archive of a release, twice, and checks them: what `make dist` does.

    python tools/dist.py [--out dist] [--dirty]

The files of the project are copied into two folders with other names, other times and another mask of permissions, and
built there. Both builds must have the same bytes, also if the wheel is built from the source archive.
Then the contents are compared with the files of git, and the sizes, versions, changelog and licenses are checked.
The archives and SHA256SUMS are written only if there is no problem. It needs the extra `dev` and no network.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import changes
import contents
import sbom
from project import ROOT, changelog, cited_version, commit_time, tracked, uncommitted, version


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the archives (dist)")
    parser.add_argument(
        "--dirty", action="store_true", help="build though files are not committed (never for a release)"
    )
    arguments = parser.parse_args()
    if (changed := uncommitted()) and not arguments.dirty:
        sys.exit("\n".join(["commit these files first, or try with --dirty:", *changed]))
    with tempfile.TemporaryDirectory(prefix="hierax-dist-") as folder:
        archives, problems = built_twice(ROOT, Path(folder))
        problems += [*problems_of_records(), *problems_of_archives(archives)]
        for problem in problems:
            print(f"PROBLEM: {problem}")
        if problems:
            sys.exit(1)
        publish(archives, arguments.out)


def built_twice(root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Builds the archives in two copies of the project.

    Returns:
        The wheel and the source archive of the first build, and what differs between the builds, as sentences.
    """
    epoch = commit_time(root)
    first, second = folder / "a", folder / "another" / "place"
    for copy, age in ((first, 0), (second, 10**8)):
        copy_of(root, copy, age)
    build(first, epoch, umask=0o022, zone="UTC")
    build(second, epoch, umask=0o077, zone="Asia/Tokyo", parts=("--sdist", "--wheel"))
    archives = sorted((first / "dist").iterdir())
    differences = [
        f"two builds of {archive.name} differ: {digest(archive)[:16]}, {digest(second / 'dist' / archive.name)[:16]}"
        for archive in archives
        if digest(archive) != digest(second / "dist" / archive.name)
    ]
    return archives, differences


def copy_of(root: Path, target: Path, age: int) -> None:
    """Copies the files of the project; their times are `age` seconds before now."""
    for name in tracked(root):
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, to)
        os.utime(to, (to.stat().st_atime - age, to.stat().st_mtime - age))


def build(folder: Path, epoch: str, *, umask: int, zone: str, parts: Iterable[str] = ()) -> None:
    """Runs `python -m build`; without `parts` the wheel is built from the source archive, as installers do it."""
    command = [sys.executable, "-m", "build", "--no-isolation", *parts, str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "TZ": zone}
    done = subprocess.run(command, env=environment, umask=umask, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def problems_of_records(root: Path = ROOT) -> list[str]:
    """What is wrong with the version, the changelog and the list of licenses, as sentences."""
    number, problems = version(root), []
    if cited_version(root) != number:
        problems.append(f"pyproject.toml has version {number}, CITATION.cff {cited_version(root)}")
    try:
        entry, date, text = changelog(root)
        if entry != number:
            problems.append(f"pyproject.toml has version {number}, the newest entry of CHANGELOG.md {entry}")
        if date == "unreleased":
            print(f"NOTE: CHANGELOG.md has no date for {entry} yet")
        problems += changes.not_mentioned(root, text)
    except ValueError as error:
        problems.append(str(error))
    try:
        found = sbom.origins(root, tracked(root))
        if sbom.current(root) != (root / sbom.TARGET.name).read_text(encoding="utf-8"):
            problems.append(f"{sbom.TARGET.name} is not up to date: python tools/sbom.py")
        if f'\nlicense = "{sbom.expression(found)}"\n' not in (root / "pyproject.toml").read_text(encoding="utf-8"):
            problems.append(f"the license in pyproject.toml must be {sbom.expression(found)}")
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return problems


def problems_of_archives(archives: Iterable[Path], root: Path = ROOT) -> list[str]:
    """What is wrong with the built archives, as sentences. Their contents are printed."""
    problems: list[str] = []
    files, number = tracked(root), version(root)
    for archive in archives:
        if archive.suffix == ".whl":
            found = contents.in_wheel(archive)
            problems += contents.problems_of_wheel(found, files, number)
            if (built := contents.metadata(archive)["Version"]) != number:
                problems.append(f"pyproject.toml has version {number}, {archive.name} {built}")
        else:
            found = contents.in_sdist(archive)
            problems += contents.problems_of_sdist(found, files)
        problems += contents.problem_of_size(archive)
        print(f"{archive.name}: {archive.stat().st_size:,} bytes, {len(found)} files\n{contents.listing(found)}")
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, archives)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout.strip())
    return problems + ([f"twine check: {done.stdout}{done.stderr}"] if done.returncode else [])


def publish(archives: Iterable[Path], out: Path) -> None:
    """Writes the archives and SHA256SUMS into `out`, in place of those of the same version."""
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for archive in archives:
        shutil.copy(archive, out / archive.name)
        lines.append(f"{digest(archive)}  {archive.name}\n")
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    print(f"both builds have the same bytes; written to {out}:\n{''.join(lines)}", end="")


if __name__ == "__main__":
    main()
