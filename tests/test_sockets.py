"""Worker processes where the folder for temporary files has a long name."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierax.data import Batch, EvaluationView, evaluation_loader
from hierax.processing import Preprocessing
from hierax.sockets import shorten_socket_folder
from samples import Listed, encoded, picture

CONFIG = multiprocessing.current_process()._config  # type: ignore[attr-defined]


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder for temporary files, too long for a socket; no process of this one has a folder for its sockets."""
    folder = tmp_path / ("a-folder-with-a-long-name" * 5)
    folder.mkdir()
    before = CONFIG.pop("tempdir", None)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield str(folder)
    CONFIG["tempdir"] = before


def test_sockets_are_put_in_a_folder_with_a_short_name(long_folder: str) -> None:
    shorten_socket_folder()
    made = CONFIG["tempdir"]
    assert os.path.isdir(made)
    assert len(os.fsencode(made)) < 60
    assert not os.listdir(long_folder)
    shorten_socket_folder()
    assert CONFIG["tempdir"] == made


def test_a_short_folder_is_left_to_multiprocessing(long_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    shorten_socket_folder()
    assert CONFIG.get("tempdir") is None


def test_without_another_folder_nothing_is_changed(long_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierax.sockets._OTHERS", (long_folder + "/missing",))
    shorten_socket_folder()
    assert CONFIG.get("tempdir") is None


def test_a_loader_with_processes_ends_where_the_folder_has_a_long_name(long_folder: str) -> None:
    samples = Listed([encoded(picture(seed=seed)) for seed in range(4)])
    view = EvaluationView(samples, Preprocessing().replace(size=24, crop_size=16), size=(16, 16))
    batches = list(evaluation_loader(view, batch=2, workers=1))
    assert len(batches) == 2
    assert all(isinstance(batch, Batch) for batch in batches)
