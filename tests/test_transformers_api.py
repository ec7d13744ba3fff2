"""What scripts written for transformers touch on models and configurations: it works, or is one clear sentence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hierax
from hierax import HieraBackbone, HieraConfig, HieraForImageClassification, HieraForPreTraining, HieraModel
from hierax.cli import _parser
from hierax.model.pretrained import Pretrained
from hierax.transformers_arguments import _ONE_VALUE
from small import image_config, pixels

FEMTO = "hierax/femto"
TASKS = [HieraModel, HieraBackbone, HieraForImageClassification, HieraForPreTraining]


def made(cls: type[Pretrained]) -> Any:
    return cls(image_config(num_query_pool=2) if cls is HieraForPreTraining else image_config())


@pytest.mark.parametrize("cls", TASKS)
def test_methods_and_attributes_that_scripts_read(cls: type[Pretrained]) -> None:
    model = made(cls)
    assert model.num_parameters(only_trainable=True, exclude_embeddings=True) == model.num_parameters()
    assert model.get_memory_footprint() >= 4 * model.num_parameters()
    assert model.main_input_name == "pixel_values"
    assert getattr(model, model.base_model_prefix) is model.base_model is model.encoder
    assert isinstance(model.get_input_embeddings(), nn.Module)
    assert model.get_output_embeddings() is None
    assert not model.can_generate()
    assert model.supports_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert (model.half().dtype, model.device.type, model.name_or_path) == (torch.float16, "cpu", "")


def test_what_models_of_images_cannot_do_is_one_sentence() -> None:
    model = made(HieraForImageClassification)
    with pytest.raises(NotImplementedError, match="no table of tokens"):
        model.resize_token_embeddings(5)
    with pytest.raises(NotImplementedError, match=r"from_pretrained\(…, image_size=448\)"):
        model.resize_position_embeddings(448)


def test_the_head_is_read_as_classifier_and_never_lost_by_an_assignment() -> None:
    model = made(HieraForImageClassification)
    assert model.classifier is model.head
    with pytest.raises(
        AttributeError, match=r"classifier cannot be assigned: the head .* is called head; from_pretrained"
    ):
        model.classifier = nn.Linear(4, 2)


@pytest.mark.parametrize("cls", TASKS)
def test_what_calls_give_can_be_said_by_the_configuration(cls: type[Pretrained]) -> None:
    model = made(cls).eval()
    x = pixels(model.config)
    assert model(x).hidden_states is model(x).attentions is None
    model.config.output_hidden_states = True
    model.config.output_attentions = True
    with torch.no_grad():
        out = model(x)
    assert len(out.hidden_states) == model.config.stages + 1 if cls is not HieraBackbone else out.hidden_states
    assert out.attentions
    assert model(x, output_hidden_states=False, output_attentions=False).hidden_states is None


@pytest.mark.parametrize(
    "given",
    [
        {"torch_dtype": "auto"}, {"dtype": torch.float32}, {"device_map": None}, {"device_map": {"": "cpu"}},
        {"low_cpu_mem_usage": True}, {"trust_remote_code": False}, {"force_download": False}, {"resume_download": True},
        {"proxies": None}, {"subfolder": ""}, {"use_auth_token": None}, {"quantization_config": None},
        {"attn_implementation": "sdpa"}, {"use_safetensors": True}, {"weights_only": True}, {"use_cache": False},
        {"output_loading_info": False}, {"return_dict": True}, {"state_dict": None},
        {"num_labels": 3, "ignore_mismatched_sizes": True}, {"output_hidden_states": True}, {"output_attentions": True},
        {"problem_type": "multi_label_classification"}, {"revision": "main"},
        {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "ignore_mismatched_sizes": True},
    ],
    ids=lambda given: "-".join(given),
)  # fmt: skip
def test_arguments_of_from_pretrained_are_taken(given: dict[str, Any]) -> None:
    model = HieraForImageClassification.from_pretrained(FEMTO, **given)
    for name in ("output_hidden_states", "output_attentions"):
        assert getattr(model.config, name) is given.get(name, False)
    assert all(isinstance(i, int) for i in model.config.id2label)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"return_dict": False}, "return_dict is False; expected True: pass return_dict=False to the call"),
        ({"output_loading_info": True}, "output_loading_info is True; expected False: model.loading_report lists"),
        ({"quantization_config": {"load_in_8bit": True}}, "expected None: hierax.Engine"),
        ({"subfolder": "x"}, "subfolder is 'x'; expected ''"),
        ({"output_hidden_states": 1}, "output_hidden_states is 1; expected true or false"),
        ({"force_download": True}, "force_download is True; expected False"),
        ({"tp_plan": "auto"}, "tp_plan is 'auto'; expected None: training shares a model .* with --parallel fsdp"),
        ({"token": "a", "use_auth_token": "b"}, "token and use_auth_token differ"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_arguments_that_cannot_be_followed_say_what_to_do(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HieraModel.from_pretrained(FEMTO, **given)


def test_options_and_names_in_this_advice_exist() -> None:
    advice = " ".join(instead for _, instead in _ONE_VALUE.values())
    known = {option for command in _parser()[1].values() for option in command._option_string_actions}
    assert "--parallel" in advice
    assert set(re.findall(r"--[a-z][\w-]*", advice)) <= known
    assert not re.search(r"\w\.\*", advice)  # parallel.*
    assert all(hasattr(hierax, name) for name in re.findall(r"hierax\.(\w+)", advice))


def test_a_configuration_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match="config is a str; expected a HieraConfig"):
        HieraModel.from_pretrained(FEMTO, config=FEMTO)  # type: ignore[arg-type]


def test_tuples_cannot_be_asked_for_in_a_configuration() -> None:
    config = HieraConfig()
    with pytest.raises(AttributeError, match="pass return_dict=False to the call of the model"):
        config.return_dict = False
    config.return_dict = True


def test_configurations_are_loaded_and_saved_alone(tmp_path: Path) -> None:
    config = HieraConfig.from_pretrained(FEMTO, output_hidden_states=True, drop_path_rate=0.2)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("hiera", 4, 320)
    assert config.architectures == ["HieraForImageClassification"]
    assert (config.output_hidden_states, config.drop_path_rate) == (True, 0.2)
    config.save_pretrained(tmp_path / "new")
    assert json.loads(config.to_json_string()) == json.loads(json.dumps(config.to_dict()))
    again = HieraConfig.from_json_file(tmp_path / "new" / "config.json")
    assert (again.id2label, again.depths, again.architectures) == (config.id2label, config.depths, config.architectures)


def test_transformers_reads_a_configuration_that_was_saved_alone(tmp_path: Path) -> None:
    from transformers import AutoConfig

    HieraConfig(embed_dim=32, depths=(1, 1, 1, 1)).save_pretrained(tmp_path)
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.model_type, theirs.embed_dim, list(theirs.depths)) == ("hiera", 32, [1, 1, 1, 1])


def test_what_a_file_of_transformers_says_of_outputs_is_followed() -> None:
    config = HieraConfig.from_dict({"embed_dim": 32, "output_hidden_states": True})
    assert config.output_hidden_states
    assert not config.output_attentions


def test_saving_takes_what_scripts_pass(tmp_path: Path) -> None:
    model = made(HieraModel)
    model.save_pretrained(tmp_path, max_shard_size="5GB", push_to_hub=False, save_peft_format=True, token=None)
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"push_to_hub is True; expected False: call push_to_hub\(repo_id\)"):
        model.save_pretrained(tmp_path / "other", push_to_hub=True)
    with pytest.raises(TypeError, match="save_pretrained got 'folders'"):
        model.save_pretrained(tmp_path / "other", folders=2)
    assert not (tmp_path / "other").exists()


def test_an_engine_gives_the_same_whatever_the_configuration_says_of_outputs() -> None:
    model = made(HieraForImageClassification).eval()
    x = pixels(model.config)
    expected = model(x).logits
    model.config.output_hidden_states = True
    with hierax.Engine(model, backend="torch", precision="fp32", cache_dir=False) as engine:
        torch.testing.assert_close(engine(x).logits, expected, rtol=1e-4, atol=1e-5)
