"""Arguments that users bring from other libraries, and misspelled ones, are answered with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import hierax
from hierax.advice import CONFIG, RECORD
from hierax.model.outputs import BackboneOutput, ClassifierOutput, HieraModelOutput, PreTrainingOutput
from hierax.processing import HieraVideoProcessor

FEMTO = "hierax/femto"
TINY: dict[str, Any] = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "image_size": 64}

CALLS: dict[str, Callable[..., Any]] = {
    "load": lambda **given: hierax.load(FEMTO, **given),
    "from_pretrained": lambda **given: hierax.HieraForImageClassification.from_pretrained(FEMTO, **given),
    "create_model": lambda **given: hierax.create_model("hiera_tiny_224", **given),
    "HieraConfig": hierax.HieraConfig,
    "HieraConfig.from_pretrained": lambda **given: hierax.HieraConfig.from_pretrained(FEMTO, **given),
    "HieraImageProcessor": hierax.HieraImageProcessor,
    "HieraImageProcessor.from_pretrained": lambda **given: hierax.HieraImageProcessor.from_pretrained(FEMTO, **given),
    "HieraVideoProcessor": HieraVideoProcessor,
    "Engine": lambda **given: hierax.Engine(FEMTO, **given),
}
OF_A_MODEL = ("create_model", "HieraConfig")
LOADS = ("load", "from_pretrained")
OF_A_PROCESSOR = ("HieraImageProcessor", "HieraVideoProcessor", "HieraImageProcessor.from_pretrained")
ADVICE = [  # calls, argument, what the error advises
    (OF_A_MODEL, "num_classes", "(did you mean num_labels?)"),
    (OF_A_MODEL, "in_chans", "(did you mean num_channels?)"),
    (OF_A_MODEL, "img_size", "(did you mean image_size?)"),
    (OF_A_MODEL, "torch_dtype", "; call model.to(…) afterwards, or pass it to hierax.load"),
    (OF_A_MODEL, "device_map", "; call model.to(…) afterwards, or pass it to hierax.load"),
    (OF_A_MODEL, "ignore_mismatched_sizes", "; hierax.load takes it"),
    (OF_A_MODEL, "output_attentions", "; set it as an attribute afterwards, or pass it to hierax.load"),
    (OF_A_MODEL, "return_dict", "; pass return_dict=False to the call of the model"),
    ((*OF_A_MODEL, *LOADS), "pretrained", "; hierax.load(source) loads weights"),
    ((*OF_A_MODEL, *LOADS), "drop_path", "(did you mean drop_path_rate?)"),
    ((*OF_A_MODEL, *LOADS), "features_only", '; hierax.load(source, task="backbone") gives the maps'),
    ((*OF_A_MODEL, *LOADS), "load_in_8bit", '; hierax.Engine(source, precision="int8") is quantized'),
    ((*OF_A_MODEL, *LOADS), "in_channels", "(did you mean num_channels?)"),
    ((*OF_A_MODEL, *LOADS), "drop_path_rat", "(did you mean drop_path_rate?)"),
    (OF_A_PROCESSOR, "img_size", "(did you mean size?)"),
    (OF_A_PROCESSOR, "interpolation", "(did you mean resample?)"),
    (OF_A_PROCESSOR, "mean", "(did you mean image_mean?)"),
    (OF_A_PROCESSOR, "do_rescal", "(did you mean do_rescale?)"),
    (OF_A_PROCESSOR, "num_classes", "; it belongs to a model, not to its processor"),
    (OF_A_PROCESSOR, "drop_path_rate", "; it belongs to a model, not to its processor"),
    (OF_A_PROCESSOR, "pretrained", "; it belongs to a model, not to its processor"),
    (("Engine",), "torch_dtype", "Engine has no argument 'torch_dtype' (did you mean precision?)"),
    (("Engine",), "device_map", "(did you mean device?)"),
    (("Engine",), "num_threads", "(did you mean threads?)"),
    (("Engine",), "precison", "(did you mean precision?)"),
    (("Engine",), "pretrained", "; hierax.load(source) loads weights"),
    (("Engine",), "num_classes", "; it belongs to a model: hierax.load(source, num_labels=…)"),
    (("Engine",), "img_size", "; it belongs to a model: hierax.load(source, image_size=…)"),
]


@pytest.mark.parametrize(
    ("call", "name", "advice"), [(c, name, advice) for calls, name, advice in ADVICE for c in calls]
)
def test_an_argument_from_elsewhere_is_answered_with_advice(call: str, name: str, advice: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        CALLS[call](**{name: 1})
    assert name in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize("call", LOADS)
def test_loading_takes_the_arguments_of_timm_and_transformers(call: str) -> None:
    given: dict[str, Any] = {"torch_dtype": "bfloat16", "device_map": "cpu", "ignore_mismatched_sizes": True}
    model = CALLS[call](**given, num_classes=3, in_chans=1, img_size=64, drop_path_rate=0.1)
    config = model.config
    assert (config.num_labels, config.num_channels, config.image_size) == (3, 1, (64, 64))
    assert config.drop_path_rate == 0.1


def test_an_argument_that_nothing_is_like_lists_what_there_is() -> None:
    with pytest.raises(TypeError, match="Engine has no argument 'sauce'; expected model, task, device, precision"):
        hierax.Engine(FEMTO, sauce=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_what_is_advised_is_there() -> None:
    assert set(CONFIG.values()) <= inspect.signature(hierax.HieraConfig).parameters.keys()
    assert set(RECORD.values()) <= inspect.signature(hierax.Preprocessing).parameters.keys()


@pytest.mark.parametrize(
    ("model", "output"),
    [
        (hierax.HieraModel, HieraModelOutput),
        (hierax.HieraBackbone, BackboneOutput),
        (hierax.HieraForImageClassification, ClassifierOutput),
        (hierax.HieraForVideoClassification, ClassifierOutput),
        (hierax.HieraForPreTraining, PreTrainingOutput),
    ],
)
def test_forward_says_what_it_returns(model: Any, output: type) -> None:
    assert model.forward.__annotations__["return"] in (output, output.__name__)


def test_both_processors_have_one_default_of_fast() -> None:
    defaults = {
        inspect.signature(c).parameters["fast"].default for c in (hierax.HieraImageProcessor, HieraVideoProcessor)
    }
    assert defaults == {None}
