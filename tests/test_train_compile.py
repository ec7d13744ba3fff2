"""What PyTorch cannot compile is refused, or said in one sentence."""

from typing import Any

import pytest

from hierax.train.progress import TrainingStopped, explain_failures
from training import toy, toy_loop


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("target", ["normalized", "hog"])
def test_what_pytorch_cannot_compile_for_a_cpu_is_refused(precision: str, target: str) -> None:
    options: dict[str, Any] = {"precision": precision, "target": target}
    message = rf"compile=true with precision={precision}: .*; expected compile=false or precision=fp32"
    with pytest.raises(ValueError, match=message):
        toy_loop(toy(compile=True, gradient_checkpointing=True, **options))
    toy_loop(toy(**options))


def test_a_step_that_cannot_be_compiled_ends_the_run_in_one_sentence() -> None:
    from torch._inductor.exc import InductorError

    with (
        pytest.raises(TrainingStopped, match=r"the step cannot be compiled \(RuntimeError: no compiler\); compile=fa"),
        explain_failures(lambda: "nothing was written"),
    ):
        raise InductorError(RuntimeError("no compiler\nall that it was given"), None)
