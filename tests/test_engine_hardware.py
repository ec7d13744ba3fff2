"""What "auto" stands for, and which combinations are refused."""

import logging
from typing import Any

import pytest
import torch

from hierax import extras
from hierax.engine import hardware
from hierax.engine.hardware import backend_for, choose
from hierax.model.config import HieraConfig, variant_config

ONNX = ("onnxruntime", "onnx", "onnxscript")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`machine(bf16=…, packages=…)`: a CPU that is fast at bf16 or not, and what is installed on it."""

    def make(*, bf16: bool = True, packages: tuple[str, ...] = ("openvino", "nncf", *ONNX)) -> None:
        monkeypatch.setattr(hardware, "fast_bf16", lambda: bf16)
        monkeypatch.setattr(extras, "is_installed", lambda module: module in packages)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return make


def chosen(device: str = "auto", precision: str = "auto", backend: str = "auto") -> tuple[str, str, str]:
    choice = choose(device, precision, backend)
    return str(choice.device), choice.precision, choice.backend


def test_a_cpu_takes_openvino_in_bf16_where_it_multiplies_that(machine: Any) -> None:
    machine(bf16=True)
    assert chosen() == ("cpu", "bf16", "openvino")


def test_else_in_fp32(machine: Any) -> None:
    machine(bf16=False)
    assert chosen() == ("cpu", "fp32", "openvino")


def test_without_any_package_it_is_pytorch_and_the_log_says_what_is_faster(
    machine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    machine(packages=())
    with caplog.at_level(logging.INFO, "hierax.engine"):
        assert chosen() == ("cpu", "bf16", "torch")
    assert "pip install 'openvino>=2025.4' (part of hierax[openvino])" in caplog.text


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_within_a_limit_of_memory_it_is_pytorch_which_needs_half(
    precision: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr("hierax.memory.address_limit", lambda: 1_500_000_000)
    assert chosen(precision=precision) == ("cpu", precision, "torch")
    assert chosen(backend="openvino") == ("cpu", "bf16", "openvino")
    assert chosen(precision="int8") == ("cpu", "int8", "openvino")


def test_asking_for_openvino_is_asking_for_the_cpu(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen(backend="openvino") == ("cpu", "bf16", "openvino")


def test_what_is_asked_for_by_name_is_kept(machine: Any) -> None:
    machine()
    assert chosen("cpu", "fp32", "torch") == ("cpu", "fp32", "torch")
    assert chosen("cpu", "int8") == ("cpu", "int8", "openvino")
    assert choose(torch.device("cpu"), "fp32", "compile").backend == "compile"


@pytest.mark.parametrize(
    ("name", "value"), [("precision", "fp64"), ("precision", ""), ("backend", "tensorrt"), ("backend", "cuda")]
)
def test_an_unknown_name_is_refused_with_those_there_are(name: str, value: str, machine: Any) -> None:
    machine()
    with pytest.raises(ValueError, match=rf"{name} is '{value}'; expected auto, .*(bf16|openvino)"):
        choose(**{"device": "cpu", "precision": "auto", "backend": "auto", name: value})


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        choose(device, "auto", "auto")


@pytest.mark.parametrize(
    ("precision", "backend", "takes"),
    [
        ("fp16", "torch", "fp32, bf16"),
        ("int8", "torch", "fp32, bf16"),
        ("int8", "compile", "fp32, bf16"),
        ("fp16", "openvino", "fp32, bf16, int8"),
        ("bf16", "onnxruntime", "fp32, int8"),
    ],
)
def test_a_precision_that_the_backend_lacks_is_refused_with_those_it_has(
    precision: str, backend: str, takes: str, machine: Any
) -> None:
    machine()
    with pytest.raises(ValueError, match=f"precision is '{precision}'; the backend '{backend}' on cpu takes {takes}"):
        choose("cpu", precision, backend)


@pytest.mark.parametrize(("backend", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_an_error_that_names_the_extra(backend: str, extra: str, machine: Any) -> None:
    machine(packages=())
    with pytest.raises(ImportError, match=rf"{backend}.*: pip install '{backend}>=.*' \(part of hierax\[{extra}\]\)"):
        choose("cpu", "auto", backend)


def test_int8_without_a_backend_for_it_names_the_extra(machine: Any) -> None:
    machine(packages=())
    with pytest.raises(ImportError, match=r"packages openvino, nncf: pip install 'openvino>=2025.4' 'nncf>=2.19' \("):
        choose("cpu", "int8", "auto")


@pytest.mark.parametrize("module", ONNX)
def test_a_backend_without_one_of_its_packages_is_not_chosen(module: str, machine: Any) -> None:
    machine(packages=tuple(name for name in ONNX if name != module))
    assert chosen(precision="fp32") == ("cpu", "fp32", "torch")
    with pytest.raises(ImportError, match=rf"backend 'onnxruntime' needs the package {module}: pip install"):
        choose("cpu", "auto", "onnxruntime")


def test_a_processor_that_is_slow_at_bf16_is_not_asked_what_its_pytorch_may_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch without oneDNN (on macOS, say) has no such operator."""

    class Without:
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", Without(), raising=False)
    assert hardware.fast_bf16() is False


FEMTO = HieraConfig.from_pretrained("hierax/femto")


def test_few_inputs_run_on_pytorch_and_many_on_the_fastest_backend() -> None:
    def found(inputs: int, config: HieraConfig = FEMTO, **changes: Any) -> str:
        return backend_for(inputs, config, **{"backend": "auto", "precision": "auto", **changes})

    tiny, video = variant_config("hiera_tiny_224"), variant_config("hiera_base_16x224")
    assert [found(n) for n in (0, 1, 60, 85, 86, 1000)] == ["torch"] * 4 + ["auto"] * 2
    assert [found(n, tiny) for n in (11, 12)] == [found(n, video) for n in (1, 2)] == ["torch", "auto"]
    double = tuple(2 * side for side in FEMTO.image_size)
    assert [found(n, size=double) for n in (21, 22)] == ["torch", "auto"]
    assert [found(1, video, size=(size, size)) for size in (224, 256)] == ["torch", "auto"]
    assert found(1, backend="openvino") == "openvino"
    assert found(1, precision="int8") == "auto"
