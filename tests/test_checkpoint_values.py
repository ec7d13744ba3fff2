"""Weights that cannot be right are named when they are loaded: NaN, infinite, too large for a dtype, all zero."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hierax
from hierax.checkpoint.values import not_finite
from hierax.cli import main
from hierax.notices import Notice
from small import image_config, randomize

HEAD, QKV = "head.bias", "encoder.blocks.0.attn.qkv.weight"


def saved(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A classifier whose tensors were changed before it was saved."""
    model: Any = randomize(hierax.HieraForImageClassification(image_config()))
    state = dict(model.state_dict())
    change(state)
    model.load_state_dict(state)
    model.save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [HEAD, QKV])
def test_a_value_that_is_not_finite_is_named_with_its_tensor(tmp_path: Path, value: float, name: str) -> None:
    folder = saved(tmp_path, lambda state: state[name].view(-1)[-1:].fill_(value))
    theirs = hierax.open_checkpoint(folder).theirs[name]
    with pytest.raises(ValueError, match=rf"1 tensor holds NaN or infinite values: {re.escape(theirs)}; expected fini"):
        hierax.load(folder)


@pytest.mark.parametrize(
    "command", ["classify {0}", "features {0} -o {1}", "export -o {1} --format pt2", "embed {0} -o {1}"]
)
def test_commands_refuse_such_a_checkpoint_in_one_line(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    folder = saved(tmp_path, lambda state: state[QKV].fill_(math.nan))
    line = command.format(tmp_path / "a.png", tmp_path / "out").split()
    assert main([*line, "--model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "NaN or infinite values" in err
    assert not (tmp_path / "out").exists()


def test_what_the_task_does_not_use_or_what_is_made_anew_is_not_looked_at(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda state: state["head.weight"].fill_(math.nan))
    assert hierax.load(folder, task="features")
    assert hierax.load(folder, num_labels=3)
    assert hierax.load(folder, new=("head",))


def test_values_that_the_dtype_cannot_hold_are_an_error_that_names_it(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda state: state[HEAD].fill_(1e6))
    assert hierax.load(folder)
    assert hierax.load(folder, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"are too large for torch.float16 \(at most 65504\); expected another dtype"):
        hierax.load(folder, dtype="float16")


def test_finite_values_whose_sum_is_not_finite_are_finite() -> None:
    large = torch.full((4,), 3e38)
    assert not_finite({"a": large, "b": torch.full((9,), 6e4, dtype=torch.float16), "c": torch.empty(0)}) == []
    assert not_finite({"a": large, "b": torch.tensor([math.inf, -math.inf])}) == ["b"]


def test_eight_bit_floats_are_looked_at_too() -> None:
    values = torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)
    assert not_finite({"a": values[:1], "b": values}) == ["b"]


def test_a_file_of_zeros_is_an_error(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda state: [tensor.zero_() for tensor in state.values()])
    with pytest.raises(
        ValueError, match="all its weights are zero; expected a file that was copied or downloaded whole"
    ):
        hierax.load(folder)


def test_some_weights_of_zeros_are_a_notice(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda state: state[QKV].zero_())
    with pytest.warns(Notice, match=r"is all zero \(was the file copied or downloaded whole\?\)"):
        hierax.load(folder)


def test_biases_and_tables_may_be_zero(tmp_path: Path) -> None:
    names = [HEAD, "norm.bias", "encoder.pos_embed.weight"]
    assert hierax.load(saved(tmp_path, lambda state: [state[name].zero_() for name in names]))
