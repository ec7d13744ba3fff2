"""What `from_pretrained` accepts: arguments in the words of transformers and timm too; channels, new modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax import AutoImageProcessor, Engine, HieraForImageClassification, HieraForPreTraining, HieraModel, load
from hierax.notices import Notice
from small import image_config, pixels, randomize

Save = Callable[..., Path]
CLASSES = HieraForImageClassification


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of five labels."""
    randomize(CLASSES(image_config())).save_pretrained(tmp_path / "five")  # type: ignore[operator]
    return tmp_path / "five"


# -- labels -----------------------------------------------------------------------------------------------------------


def test_a_head_of_another_size_starts_anew_where_mismatches_are_ignored(folder: Path) -> None:
    before: Any = load(folder)
    made: Any = CLASSES.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert made.head.weight.shape == (3, 64)
    assert made.loading_report.reinitialized == ["head"]
    assert torch.equal(made.norm.weight, before.norm.weight)
    assert made.head.weight.std() < 1e-3  # as a fresh head is


@pytest.mark.parametrize("ignore", [False, True])
def test_a_head_of_the_same_size_is_kept(folder: Path, ignore: bool) -> None:
    before: Any = load(folder)
    kept: Any = CLASSES.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=ignore)
    assert torch.equal(kept.head.weight, before.head.weight)
    assert torch.equal(kept.head.bias, before.head.bias)
    named: Any = CLASSES.from_pretrained(folder, num_labels=5, id2label=dict(enumerate("abcde")))
    assert torch.equal(named.head.weight, before.head.weight)
    assert named.config.id2label == dict(enumerate("abcde"))
    new: Any = CLASSES.from_pretrained(folder, num_labels=5, reinit=("head",), ignore_mismatched_sizes=ignore)
    assert not torch.equal(new.head.weight, before.head.weight)


def test_a_head_that_was_replaced_is_loaded_with_its_number_of_labels(folder: Path) -> None:
    model: Any = load(folder)
    model.head = torch.nn.Linear(64, 3)
    with pytest.warns(Notice, match=r"head.weight has shape \[3, 64\]"):
        model.save_pretrained(folder / "three")
    with pytest.raises(ValueError, match=r"num_labels=3 loads it, num_labels= with another number gives a new head"):
        load(folder / "three")
    again: Any = CLASSES.from_pretrained(folder / "three", num_labels=3)
    assert torch.equal(again.head.weight, model.head.weight)
    assert again.config.num_labels == 3


def test_a_new_head_has_no_problem_type_of_the_former(folder: Path) -> None:
    model = load(folder)
    model.config.problem_type = "single_label_classification"
    model.save_pretrained(folder / "single")
    pixels, labels = torch.rand(2, 3, 64, 64), torch.tensor([[3.0], [4.0]])
    kept: Any = CLASSES.from_pretrained(folder / "single", num_labels=5)
    assert kept.config.problem_type == "single_label_classification"
    assert load(folder / "single", reinit=("head",)).config.problem_type == "single_label_classification"
    one: Any = CLASSES.from_pretrained(folder / "single", num_labels=1)
    out = one(pixels, labels=labels)
    assert torch.allclose(out.loss, (out.logits - labels).square().mean())
    several: Any = CLASSES.from_pretrained(folder / "single", num_labels=2)
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    out = several(pixels, labels=labels)
    assert torch.allclose(out.loss, torch.nn.functional.binary_cross_entropy_with_logits(out.logits, labels))
    stated: Any = CLASSES.from_pretrained(folder / "single", num_labels=1, problem_type="single_label_classification")
    with pytest.raises(ValueError, match="but the model has one label, so the loss would always be 0"):
        stated(pixels, labels=torch.tensor([0, 0]))


def test_labels_of_another_count_ask_for_a_new_head(folder: Path) -> None:
    names = {0: "cat", 1: "dog"}
    with pytest.raises(
        ValueError, match=r"has shape \[5, 64\]; expected \[2, 64\]; num_labels=5 loads it, num_labels="
    ):
        CLASSES.from_pretrained(folder, id2label=names)
    made = CLASSES.from_pretrained(folder, id2label=names, ignore_mismatched_sizes=True)
    assert made.config.id2label == names
    assert CLASSES.from_pretrained(folder, num_labels=2, id2label=names).config.id2label == names


def test_the_number_of_labels_has_two_names(folder: Path, saved: Save) -> None:
    encoder = saved(HieraModel, image_config())
    for name in ("num_labels", "num_classes"):
        made = load(encoder, **{name: 3})  # type: ignore[arg-type]
        assert isinstance(made, HieraForImageClassification)
        assert made.head.weight.shape == (3, 64)
    assert isinstance(load(encoder, num_classes=0), HieraModel)
    with pytest.raises(ValueError, match=r"num_labels is 0; .*task='features' gives a model without a head"):
        load(folder, num_classes=0)


def test_labels_may_be_given_both_ways(folder: Path) -> None:
    names = {i: f"class {i}" for i in range(3)}
    indices = {name: i for i, name in names.items()}
    made = CLASSES.from_pretrained(folder, num_labels=3, id2label=names, label2id=indices, ignore_mismatched_sizes=True)
    assert (made.config.id2label, made.config.label2id, made.config.num_labels) == (names, indices, 3)
    only = CLASSES.from_pretrained(folder, label2id=indices, ignore_mismatched_sizes=True)
    assert only.config.id2label == names
    with pytest.raises(ValueError, match="expected one of them"):
        CLASSES.from_pretrained(folder, num_labels=3, id2label=names, label2id={"other": 0, "b": 1, "c": 2})


def test_a_missing_head_starts_anew_for_labels_in_any_case(saved: Save) -> None:
    features = saved(HieraModel, image_config())
    made = CLASSES.from_pretrained(features, num_labels=3, ignore_mismatched_sizes=True)
    assert made.loading_report is not None
    assert made.loading_report.reinitialized == ["head"]


# -- precision, device, attention -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_the_precision_has_two_names(dtype: Any, folder: Path) -> None:
    assert CLASSES.from_pretrained(folder, torch_dtype=dtype).dtype == torch.bfloat16
    assert CLASSES.from_pretrained(folder, dtype=dtype).dtype == torch.bfloat16
    assert CLASSES.from_pretrained(folder, dtype="bfloat16", torch_dtype=dtype).dtype == torch.bfloat16
    assert load(folder, torch_dtype=dtype).dtype == torch.bfloat16
    assert CLASSES.from_pretrained(folder, torch_dtype="auto").dtype == torch.float32


@pytest.mark.parametrize(
    "device_map", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"encoder": "cpu", "head": "cpu"}]
)
def test_a_device_map_of_one_device_is_that_device(device_map: Any, folder: Path) -> None:
    device = CLASSES.from_pretrained(folder, device_map=device_map).device.type
    assert device == "cpu" or (device_map == "auto" and device != "meta")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "balanced"}, "device_map is 'balanced'; expected one device for the whole model, or 'auto'"),
        ({"device_map": {"a": "cpu", "b": "meta"}}, "expected one device for the whole model, or 'auto'"),
        ({"device_map": "cpu", "device": "meta"}, "device_map is cpu but device is 'meta'; expected one of them"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "torch_dtype is 'bfloat16' but dtype is 'float16'"),
        ({"torch_dtype": "int8"}, "dtype is 'int8'; expected a floating-point dtype"),
        (
            {"attn_implementation": "flash_attention_2"},
            "attn_implementation is 'flash_attention_2'; expected 'sdpa' or",
        ),
        ({"in_chans": 1, "num_channels": 3}, "in_chans is 1 but num_channels is 3; expected one of them"),
        ({"load_in_8bit": True}, "'load_in_8bit' is not a field of HieraConfig"),
    ],
)
def test_what_cannot_be_is_said_in_the_words_of_the_caller(options: Any, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        CLASSES.from_pretrained(folder, **options)


def test_arguments_that_choose_between_ways_of_reading_make_no_difference(folder: Path) -> None:
    for attention in ("sdpa", "eager", None):
        options: dict[str, Any] = {"low_cpu_mem_usage": True, "use_safetensors": True, "trust_remote_code": False}
        made: Any = CLASSES.from_pretrained(folder, attn_implementation=attention, **options)
        assert torch.equal(made.head.weight, load(folder).head.weight)  # type: ignore[union-attr]


# -- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", ["num_channels", "in_chans"])
@torch.no_grad()
def test_of_other_channels_an_input_alike_in_all_of_them_gives_the_same(channels: int, name: str, folder: Path) -> None:
    before: Any = load(folder)
    asked: dict[str, Any] = {name: channels}
    made: Any = CLASSES.from_pretrained(folder, **asked)
    gray = pixels(before.config, batch=2)[:, :1]
    assert made.config.num_channels == channels
    assert torch.allclose(
        made(gray.expand(-1, channels, -1, -1)).logits, before(gray.expand(-1, 3, -1, -1)).logits, atol=1e-5
    )
    assert made.loading_report.resized == [f"encoder.patch_embed.proj 3 -> {channels} channels, each the mean"]


def test_the_record_of_other_channels_has_as_many_means(tmp_path: Path) -> None:
    made = CLASSES.from_pretrained("hierax/femto", num_channels=1)
    assert made.preprocessing is not None
    whole = load("hierax/femto").preprocessing
    assert whole is not None
    assert made.preprocessing.image_mean == pytest.approx((sum(whole.image_mean) / 3,))
    made.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).record.num_channels == 1
    assert load(tmp_path).config.num_channels == 1


def test_channels_and_a_new_patch_embedding_go_together(folder: Path) -> None:
    made: Any = CLASSES.from_pretrained(folder, num_channels=4, reinit=("patch_embed",))
    assert made.encoder.patch_embed.proj.weight.shape[1] == 4
    assert made.loading_report.reinitialized == ["encoder.patch_embed.proj"]


def test_the_decoder_of_a_mae_does_not_predict_other_channels_by_itself(mae: Path) -> None:
    with pytest.raises(ValueError, match=r"decoder.* has shape .*; reinit=\('decoder.pred',\) gives it random weights"):
        HieraForPreTraining.from_pretrained(mae, num_channels=1)
    made = HieraForPreTraining.from_pretrained(mae, num_channels=1, reinit=("decoder.pred",))
    assert made.config.num_channels == 1
    assert (
        HieraForPreTraining.from_pretrained(mae, num_channels=1, ignore_mismatched_sizes=True).config.num_channels == 1
    )


# -- modules that start anew ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["patch_embed", "encoder.patch_embed", "encoder.patch_embed.proj"])
def test_a_module_starts_anew_and_all_others_are_kept(new: str, folder: Path) -> None:
    before, made = load(folder).state_dict(), CLASSES.from_pretrained(folder, reinit=(new,))
    changed = [name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"]
    assert made.loading_report is not None
    assert made.loading_report.reinitialized == ["encoder.patch_embed.proj"]


def test_position_embeddings_and_single_blocks_start_anew(folder: Path) -> None:
    before, made = load(folder).state_dict(), CLASSES.from_pretrained(folder, reinit=("pos_embed", "blocks.1"))
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {".".join(name.split(".")[:3]) for name in changed} == {"encoder.pos_embed.weight", "encoder.blocks.1"}


def test_modules_that_there_are_not_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"reinit names blocks.99.*; expected encoder, .*, or a module in them"):
        CLASSES.from_pretrained(folder, reinit=("blocks.99",))


@pytest.mark.parametrize("source", [None, 3, b"hierax/femto", ["hierax/femto"], {}])
@pytest.mark.parametrize("opened", [load, HieraModel.from_pretrained, AutoImageProcessor.from_pretrained, Engine])
def test_a_source_of_another_type_is_named(opened: Any, source: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(source).__name__}; expected a .*(name|path)"):
        opened(source)


@pytest.mark.parametrize("opened", [load, HieraModel.from_pretrained, AutoImageProcessor.from_pretrained, Engine])
def test_an_empty_name_is_not_the_current_folder(opened: Any) -> None:
    with pytest.raises(ValueError, match=r"name is empty; expected a name, a path or a Hub id"):
        opened("")


@pytest.mark.parametrize("page", ["https://huggingface.co/hierax/femto", "huggingface.co/hierax/femto/tree/main"])
def test_the_page_of_a_model_is_its_id(page: str) -> None:
    assert type(load(page)).__name__ == "HieraForImageClassification"
