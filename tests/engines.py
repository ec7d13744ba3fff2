"""What the tests of the engine share: models, their engines, and how answers are compared.

Also a plugin: tests that name it in `pytest_plugins` have its fixtures.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hierax.engine import Engine
from small import relative
from tasks import make

SAME = 1e-5  # relative, in float32
BACKENDS = ("openvino", "torch")

Shared = Callable[..., tuple[Any, Engine]]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled models are kept where nobody else looks."""
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    """`shared(kind, task, backend, precision)`: a model and its engine, made once."""
    made: dict[tuple[str, ...], tuple[Any, Engine]] = {}

    def give(kind: str, task: str, backend: str, precision: str = "fp32") -> tuple[Any, Engine]:
        key = (kind, task, backend, precision)
        if key not in made:
            torch.manual_seed(0)
            model = make(kind, task)
            # two, for OpenVINO to share batches out; but not everywhere, for threads that wait for a core are slow
            threads = 2 if (kind, backend) == ("image", "openvino") else 1
            options: Any = {"backend": backend, "precision": precision, "threads": threads}
            states = task != "backbone"
            made[key] = model, Engine(model, device="cpu", cache_dir=False, hidden_states=states, **options)
        return made[key]

    yield give
    for _, engine in made.values():
        engine.close()


def tensors(out: Any) -> dict[str, Tensor]:
    """All that an output holds, but for what engines do not give."""
    found: dict[str, Tensor] = {}
    for name, value in out.items():
        if name != "hidden_states":
            parts = value if isinstance(value, tuple) else (value,)
            found |= {f"{name}.{i}": part for i, part in enumerate(parts)}
    return found


def tiny(task: str, kind: str = "image") -> Any:
    """A model that is converted in half a second."""
    torch.manual_seed(0)
    return make(kind, task, depths=(1, 1, 1, 1))


def direct(model: Any, task: str, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options) if task == "backbone" else model(x, output_hidden_states=True, **options)


def plainly(model: Any, x: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        return model(x, **options)


def assert_same(ours: Any, theirs: Any, tolerance: float = SAME) -> None:
    assert type(ours) is type(theirs)
    found, expected = tensors(ours), tensors(theirs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
        else:
            assert found[name].dtype == torch.float32, name
            assert relative(found[name], tensor) <= tolerance, name
