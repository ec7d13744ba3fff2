"""Digests of files are SHA-256 of their bytes, whatever the length."""

import hashlib
from pathlib import Path

import pytest

from hierax import digests


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64])
def test_a_digest_does_not_depend_on_the_parts_that_are_read(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_PART", 8)
    content = bytes(range(size))
    (tmp_path / "a").write_bytes(content)
    assert digests.file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_files_are_added_one_after_another(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"first")
    (tmp_path / "a").write_bytes(b"second")
    digests.add_file(digest, tmp_path / "a")
    assert digest.hexdigest() == hashlib.sha256(b"firstsecond").hexdigest()
