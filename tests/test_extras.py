"""Optional packages: the table agrees with what the extras install, and errors name a line that installs."""

import importlib.machinery
import sys
import types
from pathlib import Path

import pytest

from hierax import extras


def declared() -> set[tuple[str, str]]:
    """Requirement and extra, as pyproject.toml states them."""
    tomllib = pytest.importorskip("tomllib")
    found = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras_of = found["project"]["optional-dependencies"]
    return {
        (name, extra)
        for extra, names in extras_of.items()
        if extra not in ("test", "docs", "notebooks", "dev")
        for name in names
    }


def test_the_table_says_what_the_extras_of_the_project_install() -> None:
    own = {(name, extra) for name, extra in declared() if not name.startswith("hierax[")}
    own.remove(("numpy>=2", "data"))  # numpy is in the core; this extra needs a later one
    assert own == {(package.requirement, package.extra) for package in extras.PACKAGES.values() if package.extra}


def test_the_line_quotes_what_a_shell_would_take_for_its_own() -> None:
    assert extras.install_line("pyarrow") == "pip install 'pyarrow>=15' (part of hierax[embed])"
    assert extras.install_line("sklearn") == "pip install scikit-learn"
    both = "pip install 'onnx>=1.17' 'onnxscript>=0.6' (part of hierax[onnx])"
    assert extras.install_line("onnx", "onnxscript") == both


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in ("onnx", "onnxruntime"))
    with pytest.raises(ImportError, match=r"^a plan needs the packages onnx, onnxruntime: pip install"):
        extras.require("a plan", "onnx", "onnxscript", "onnxruntime")


def test_a_package_that_is_set_aside_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert not extras.is_installed("av")
    with pytest.raises(extras.MissingPackage, match="a video needs the package av: pip install"):
        extras.load("a video", "av")


def test_a_folder_of_the_user_with_the_same_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets_of_mine").mkdir()
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not extras.is_installed("datasets_of_mine")
    assert extras.is_installed("package_of_mine")


def test_a_package_that_is_there_and_broken_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(extras, "is_installed", lambda module: True)
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(extras.MissingPackage, match=r"cannot be imported \(libGL.so.1"):
        extras.load("a video", "av")


def test_a_package_that_a_library_lacks_is_named_as_pip_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    for module, name in (("s3fs", "s3fs"), ("smbclient", "smbprotocol"), ("libarchive.public", "libarchive-c")):
        error = ImportError("Install something to access this")
        error.__cause__ = ModuleNotFoundError(f"No module named {module!r}", name=module)
        text = str(extras.explain("a URL", error))
        assert text == f"a URL needs the package {module.partition('.')[0]}: pip install {name}"


def test_a_library_that_does_not_say_what_it_lacks_is_quoted() -> None:
    assert str(extras.explain("a URL", ImportError("no Java"))) == "a URL needs a package that is missing: no Java"


def test_a_module_that_a_program_puts_in_place_of_a_package_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do those by which Sphinx replaces packages."""
    module = types.ModuleType("stand_in")
    module.__spec__ = importlib.machinery.ModuleSpec("stand_in", None)
    monkeypatch.setitem(sys.modules, "stand_in", module)
    assert extras.is_installed("stand_in")
