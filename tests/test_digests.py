"""Digests of files are SHA-256 of their bytes, whatever the length; those of weights are parts of keys on disk."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

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


def small() -> nn.Module:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.bias.fill_(3.0)
    return layer


@pytest.mark.parametrize(
    ("by_value", "expected"),
    [
        (False, "ed85c39347848dd2"),
        (True, "929c27949683e31d"),
    ],
)
def test_the_digests_of_weights_that_are_on_disk_do_not_change(by_value: bool, expected: str) -> None:
    assert digests.weights_digest(small(), by_value=by_value)[:16] == expected


def test_the_digest_by_value_is_the_same_in_another_dtype() -> None:
    assert digests.weights_digest(small().bfloat16(), by_value=True) == digests.weights_digest(small(), by_value=True)
    assert digests.weights_digest(small().bfloat16()) != digests.weights_digest(small())
