"""A user without a home folder, as in a container, has caches all the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from hierax.engine.cache import default_folder
from hierax.home import home


def unknown(*_: object) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_folder_compiled_models_are_kept_among_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", unknown)
    for name in ("HIERAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_folder() == home() / ".cache" / "hierax"
    assert home().parent == Path(tempfile.gettempdir())
    if os.name == "posix":
        assert home().name == f"hierax-{os.getuid()}"


def test_a_cache_in_the_home_of_a_user_that_is_unknown_is_a_path_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HIERAX_CACHE", "~nobody-of-this-name/cache")
    assert default_folder() == Path("~nobody-of-this-name/cache")
