"""hierax's models as classes of transformers: the same numbers, `Auto` classes, pipelines, training, saving."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForVideoClassification,
    pipeline,
)

import hierax
from auto_classes import put_back
from hierax.integrations.transformers import (
    HieraxBackbone,
    HieraxConfig,
    HieraxForImageClassification,
    HieraxForPreTraining,
    HieraxForSemanticSegmentation,
    HieraxForVideoClassification,
    HieraxImageProcessor,
    HieraxModel,
    HieraxVideoProcessor,
    register,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

TINY: dict[str, Any] = {
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 2, 2),
    "image_size": (64, 64),
    "decoder_hidden_size": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "num_labels": 3,
}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "classic": {},
    "windows in stage 3": {"masked_unit_attention": (True, True, True, False)},
    "abs-win": {
        "position_embedding": "abs_win",
        "global_position_size": (7, 7),
        "layer_scale_init": 0.1,
        "pooled_shortcut": True,
    },
    "five channels": {"num_channels": 5},
    "dropout": {"dropout": 0.1},
    "windows of SAM 2": {
        "window_sizes": (8, 4, 14, 7),
        "global_blocks": (3,),
        "position_embedding": "abs_win",
        "position_antialias": False,
        "global_position_size": (7, 7),
    },
}
PAIRS: list[tuple[Any, Any]] = [
    (hierax.HieraForImageClassification, HieraxForImageClassification),
    (hierax.HieraModel, HieraxModel),
    (hierax.HieraBackbone, HieraxBackbone),
    (hierax.HieraForPreTraining, HieraxForPreTraining),
    (hierax.HieraForSemanticSegmentation, HieraxForSemanticSegmentation),
]
CAT = Path(hierax.__file__).parent / "assets" / "cat.jpg"
FEMTO = CAT.parent / "femto"


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


@pytest.fixture
def replaced() -> Iterator[None]:
    """`register(replace=True)`, undone after the test."""
    with put_back():
        register(replace=True)
        yield


def takes(task: Any, geometry: str) -> bool:
    """Whether there is such a model: masks need mask units."""
    return task is not hierax.HieraForPreTraining or "window_sizes" not in GEOMETRIES[geometry]


def made(task: Any, **changes: Any) -> Any:
    """A small model of hierax with random weights, and biases and tables that are not zero."""
    torch.manual_seed(0)
    config = hierax.HieraConfig(**{**TINY, **changes})
    if task is hierax.HieraForPreTraining:
        config = config.replace(num_query_pool=2)
    features: dict[str, Any] = {"out_features": ("stage1", "stage3")} if task is hierax.HieraBackbone else {}
    model = task(config, **features).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def pixels(model: Any, size: tuple[int, ...] = (64, 64)) -> Tensor:
    return torch.randn(2, model.config.num_channels, *size, generator=torch.Generator().manual_seed(1))


def tensors(out: Any) -> list[Tensor]:
    values = out.to_tuple() if hasattr(out, "to_tuple") else out
    return [t for value in values for t in (tensors(value) if isinstance(value, tuple) else [value])]


def assert_same(out: Any, expected: Any, *, atol: float = 0, rtol: float = 0) -> None:
    pairs = zip(tensors(out), tensors(expected), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("task", "cls"), PAIRS)
def test_all_outputs_are_those_of_hierax(task: Any, cls: Any, geometry: str) -> None:
    if not takes(task, geometry):
        return
    model = made(task, **GEOMETRIES[geometry])
    same = cls.from_hierax(model)
    size = (64, 64) if task is hierax.HieraForPreTraining else (72, 96)
    noise = {"noise": torch.rand(2, 4)} if task is hierax.HieraForPreTraining else {}
    weights = "window_sizes" not in GEOMETRIES[geometry]  # they need whole windows
    options = {"output_hidden_states": True, "output_attentions": weights, **noise}
    expected, out = model(pixels(model, size), **options), same(pixels(model, size), **options)
    assert list(out.keys()) == list(expected.keys())
    assert_same(out, expected)


@pytest.mark.parametrize("name", [name for name in hierax.list_models() if not name.startswith("mae_")])
def test_maps_of_every_published_geometry_are_those_of_the_classifier(name: str) -> None:
    torch.manual_seed(0)
    size = {"image_size": (256, 256)} if name.startswith("sam2_") else {}  # natively 1024
    model: Any = hierax.create_model(name, embed_dim=16, num_labels=2, **size).eval()
    of_task = HieraxForVideoClassification if model.config.is_video else HieraxForImageClassification
    same = of_task.from_hierax(model)
    stages = list(model.config.stage_names)
    config = HieraxConfig.from_hierax(model.config, out_features=stages)
    backbone = HieraxBackbone(config).eval()
    backbone.load_state_dict(same.hiera.state_dict(), strict=False)
    inputs = torch.randn(1, 3, *((4, 64, 96) if model.config.is_video else model.config.image_size))
    theirs = inputs.transpose(1, 2) if model.config.is_video else inputs
    with torch.no_grad():
        expected = model(inputs, output_hidden_states=True)
        out, maps = same(theirs, output_hidden_states=True), backbone(theirs).feature_maps
    assert torch.equal(out.logits, expected.logits)
    for ours, wanted in zip(maps, expected.reshaped_hidden_states, strict=True):
        torch.testing.assert_close(ours, wanted.movedim(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("task", "cls"), PAIRS)
def test_folders_are_read_by_both(task: Any, cls: Any, geometry: str, tmp_path: Path) -> None:
    if not takes(task, geometry):
        return
    model = made(task, **GEOMETRIES[geometry])
    noise = {"noise": torch.rand(2, 4)} if task is hierax.HieraForPreTraining else {}
    expected = model(pixels(model), **noise)
    model.save_pretrained(tmp_path / "hierax")
    read, report = cls.from_pretrained(tmp_path / "hierax", output_loading_info=True)
    assert not any(report.values())
    assert_same(read(pixels(model), **noise), expected)
    read.save_pretrained(tmp_path / "transformers")
    again = hierax.load(tmp_path / "transformers")
    assert type(again) is task
    assert_same(again.eval()(pixels(model), **noise), expected)


# -- Auto classes and pipelines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["classic", "abs-win"])
def test_auto_classes_open_our_folders(geometry: str, tmp_path: Path) -> None:
    model = made(hierax.HieraForImageClassification, **GEOMETRIES[geometry])
    HieraxForImageClassification.from_hierax(model).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is HieraxConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is HieraxModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is HieraxForPreTraining
    read = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(read) is HieraxForImageClassification
    assert_same(read(pixels(model)), model(pixels(model)))


def test_a_backbone_is_made_from_a_configuration() -> None:
    backbone = AutoBackbone.from_config(HieraxConfig(**{**TINY, "out_features": ["stem", "stage2"]}))
    assert type(backbone) is HieraxBackbone
    assert (backbone.channels, backbone.strides, backbone.out_indices) == ([8, 16], [4, 8], [0, 2])
    maps = backbone(torch.randn(1, 3, 100, 130)).feature_maps
    assert [tuple(m.shape) for m in maps] == [(1, 8, 25, 33), (1, 16, 13, 17)]
    assert all(m.is_contiguous() for m in maps)


def test_folders_of_model_type_hiera_are_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = made(hierax.HieraForImageClassification)
    model.save_pretrained(tmp_path)
    assert '"model_type": "hiera"' in (tmp_path / "config.json").read_text()
    logger = transformers.utils.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert type(HieraxConfig.from_pretrained(tmp_path)) is HieraxConfig
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.usefixtures("replaced")
def test_in_place_of_transformers_own_classes(tmp_path: Path) -> None:
    config = transformers.HieraConfig(**TINY)
    theirs = transformers.HieraForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = AutoModelForImageClassification.from_pretrained(tmp_path / "theirs")
    assert isinstance(ours, HieraxForImageClassification)
    pixel_values = torch.randn(2, 3, 64, 64)
    assert_same(ours(pixel_values), theirs(pixel_values), atol=1e-5, rtol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.HieraForImageClassification.from_pretrained(tmp_path / "ours")  # without hierax
    assert_same(again(pixel_values), theirs(pixel_values))
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)
    small = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "out_features": ["stage1"]}
    backbone = AutoBackbone.from_config(transformers.HieraConfig(**small))
    assert isinstance(backbone, HieraxBackbone)


def test_the_image_processor_makes_the_pixels_of_hierax(tmp_path: Path) -> None:
    own = hierax.HieraImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, image_mean=(0.5,) * 3)
    HieraxImageProcessor(own.record).save_pretrained(tmp_path)
    read = HieraxImageProcessor.from_pretrained(tmp_path)
    assert isinstance(read, transformers.BaseImageProcessor)
    assert torch.equal(read(CAT)["pixel_values"], own(CAT)["pixel_values"])


def test_a_saved_image_processor_is_opened_as_one_of_hierax(tmp_path: Path) -> None:
    processor = HieraxImageProcessor.from_pretrained(FEMTO)
    processor.save_pretrained(tmp_path)
    read = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(read) is HieraxImageProcessor
    deep = Image.fromarray((np.arange(200 * 200).reshape(200, 200) % 65536).astype(np.uint16))
    assert torch.equal(
        read(deep)["pixel_values"], hierax.AutoImageProcessor.from_pretrained(FEMTO)(deep)["pixel_values"]
    )
    again = hierax.AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(deep)["pixel_values"], read(deep)["pixel_values"])


def test_pipelines_take_a_folder(tmp_path: Path) -> None:
    model = hierax.load("hierax/femto").eval()
    HieraxForImageClassification.from_hierax(model).save_pretrained(tmp_path)
    HieraxImageProcessor.from_pretrained(FEMTO).save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path))(str(CAT), top_k=3)
    assert answers[0]["label"] == "mammals"
    with torch.no_grad():
        logits = model(HieraxImageProcessor.from_pretrained(FEMTO)(CAT)["pixel_values"]).logits
    assert answers[0]["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
    features = pipeline("image-feature-extraction", model=str(tmp_path))(str(CAT), pool=True)
    assert len(features[0]) == model.config.hidden_size


def test_a_folder_is_a_pipeline_for_segmentation(tmp_path: Path) -> None:
    model = made(hierax.HieraForSemanticSegmentation, id2label={0: "sky", 1: "sea", 2: "sand"})
    model.save_pretrained(tmp_path)
    HieraxForSemanticSegmentation.from_pretrained(tmp_path).save_pretrained(tmp_path)
    size = {"height": 64, "width": 96}
    own = hierax.HieraImageProcessor(size=size, do_center_crop=False)
    HieraxImageProcessor(own.record).save_pretrained(tmp_path)
    assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path)) is HieraxForSemanticSegmentation
    found = pipeline("image-segmentation", model=str(tmp_path))(str(CAT))
    image = hierax.load_image(CAT)
    with torch.no_grad():
        logits = model(own(CAT).pixel_values).logits
        classes = F.interpolate(logits, (image.height, image.width), mode="bilinear").argmax(1)[0]
    assert {one["label"] for one in found} == {model.config.id2label[int(c)] for c in classes.unique()}
    for one in found:
        mask = torch.from_numpy(np.array(one["mask"])) > 0
        assert float((mask == (classes == model.config.label2id[one["label"]])).float().mean()) > 0.99


def test_a_segmentation_model_of_a_checkpoint_with_a_neck_is_taken() -> None:
    model = made(
        hierax.HieraForSemanticSegmentation,
        **GEOMETRIES["windows of SAM 2"], fpn_hidden_size=16, out_features=("stage2", "p1"),
    )  # fmt: skip
    same = HieraxForSemanticSegmentation.from_hierax(model)
    assert_same(same(pixels(model)), model(pixels(model)))


def test_logits_of_a_part_of_the_image_make_no_mask_of_it() -> None:
    model = HieraxForSemanticSegmentation.from_hierax(made(hierax.HieraForSemanticSegmentation))
    with pytest.raises(ValueError, match="do_center_crop is True, so the logits are those of a part of the image"):
        HieraxImageProcessor().post_process_semantic_segmentation(model(torch.randn(1, 3, 64, 64)))
    whole = HieraxImageProcessor(do_center_crop=False)
    out = model(torch.randn(2, 3, 64, 64))
    assert [m.shape for m in whole.post_process_semantic_segmentation(out)] == [(64, 64), (64, 64)]
    with pytest.raises(ValueError, match="target_sizes has 1 sizes; expected 2"):
        whole.post_process_semantic_segmentation(out, target_sizes=[(10, 10)])


def test_the_loss_of_segmentation_ignores_what_the_configuration_says() -> None:
    model = made(hierax.HieraForSemanticSegmentation)
    same = HieraxForSemanticSegmentation.from_hierax(model)
    labels = torch.randint(0, 3, (2, 64, 64))
    assert torch.equal(same(pixels(model), labels).loss, model(pixels(model), labels).loss)
    same.config.semantic_loss_ignore_index = model.config.semantic_loss_ignore_index = 2
    assert torch.equal(same(pixels(model), labels).loss, model(pixels(model), labels).loss)


# -- training ------------------------------------------------------------------------------------------------------


class _Toy(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(3)
        self.pixels, self.labels = torch.randn(count, 3, 64, 64, generator=generator), torch.arange(count) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def trainer(folder: Path, model: Any = None, **options: Any) -> transformers.Trainer:
    torch.manual_seed(0)
    model = (
        HieraxForImageClassification.from_hierax(made(hierax.HieraForImageClassification)) if model is None else model
    )
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
    }
    arguments = transformers.TrainingArguments(**{**values, **options})
    return transformers.Trainer(model, arguments, train_dataset=_Toy(), eval_dataset=_Toy())


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_trainer_trains_evaluates_and_reopens(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        gradient_checkpointing=True,
    )
    before = weights(run.model).clone()
    run.train()
    assert not torch.equal(weights(run.model), before)
    assert run.evaluate()["eval_loss"] > 0
    run.save_model(str(tmp_path / "last"))
    again = HieraxForImageClassification.from_pretrained(tmp_path / "last")
    assert torch.equal(weights(again), weights(run.model))


def test_trainer_resumes_with_the_same_weights(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", save_strategy="no")
    whole.train()
    part = trainer(tmp_path / "part", save_strategy="steps", save_steps=2)
    part.train()
    resumed = trainer(tmp_path / "part", save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-2"))
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=1e-7)


def test_accumulated_steps_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    losses = []
    for options in ({"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 2}):
        run = trainer(tmp_path, save_strategy="no", max_steps=1, lr_scheduler_type="constant", optim="sgd", **options)
        run.train()
        losses.append((weights(run.model), run.state.log_history[0]["loss"]))
    torch.testing.assert_close(losses[0][0], losses[1][0], rtol=0, atol=1e-6)
    assert losses[0][1] == pytest.approx(losses[1][1], abs=1e-3)


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = made(hierax.HieraForImageClassification)
    gradients = []
    for recompute in (False, True):
        same = HieraxForImageClassification.from_hierax(model).double().train()
        if recompute:
            same.gradient_checkpointing_enable()
        same(pixels(model).double(), labels=torch.tensor([0, 2])).loss.backward()
        gradients.append(torch.cat([cast("Tensor", p.grad).flatten() for p in same.parameters()]))
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_labels_that_may_be_true_together_use_the_problem_type_of_the_configuration() -> None:
    model = HieraxForImageClassification(HieraxConfig(**TINY, problem_type="multi_label_classification"))
    out = model(pixels(model), labels=torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    expected = F.binary_cross_entropy_with_logits(out.logits, torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    assert out.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    model.config.problem_type = "single_label_classification"
    assert model(pixels(model), labels=torch.tensor([0, 1])).loss.item() > 0


def test_the_loss_of_the_masked_autoencoder_follows_the_configuration() -> None:
    model = made(hierax.HieraForPreTraining)
    theirs = HieraxForPreTraining.from_hierax(model)
    noise = torch.rand(2, torch.Size(model.config.unit_grid((64, 64))).numel())
    for normalized in (True, False):
        model.config.normalize_pixel_loss = theirs.config.normalize_pixel_loss = normalized
        assert_same([theirs(pixels(model), noise=noise).loss], [model(pixels(model), noise=noise).loss])


def test_states_that_a_configuration_asks_for_are_returned() -> None:
    model = made(hierax.HieraModel)
    assert HieraxModel.from_hierax(model)(pixels(model)).hidden_states is None
    model.config.output_hidden_states = True
    assert len(HieraxModel.from_hierax(model)(pixels(model)).hidden_states) == 5


# -- loading -------------------------------------------------------------------------------------------------------


def test_a_new_head_leaves_the_other_weights(tmp_path: Path) -> None:
    model = made(hierax.HieraForImageClassification)
    model.save_pretrained(tmp_path)
    new: Any = HieraxForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert new.classifier.weight.shape == (7, 64)
    assert new.classifier.weight.abs().max() < 1e-3  # a fresh head is small, as in hierax
    assert torch.equal(new.hiera.pooler.layernorm.weight, model.norm.weight)


def test_a_missing_tensor_alone_is_initialized(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = made(hierax.HieraForImageClassification)
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    bias = kept.pop("hiera.encoder.stages.0.layers.0.attn.qkv.bias")
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = HieraxForImageClassification.from_pretrained(tmp_path)
    state = read.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
    fresh = state["hiera.encoder.stages.0.layers.0.attn.qkv.bias"]
    assert fresh.isfinite().all()
    assert not torch.equal(fresh, bias)


@pytest.mark.parametrize(("task", "cls"), PAIRS)
def test_random_weights_are_those_of_hierax(task: Any, cls: Any) -> None:
    config = hierax.HieraConfig(**{**TINY, "embed_dim": 32, "layer_scale_init": 0.1})
    torch.manual_seed(0)
    own = task(config)
    torch.manual_seed(1)
    fresh = cls(HieraxConfig.from_hierax(config))
    named = dict(cls.from_hierax(own).named_parameters())
    assert named.keys() == dict(fresh.named_parameters()).keys()
    for name, parameter in fresh.named_parameters():
        mean, std = named[name].mean().item(), named[name].std(correction=0).item()
        assert parameter.mean().item() == pytest.approx(mean, abs=7 * std / parameter.numel() ** 0.5 + 1e-6), name
        assert parameter.std(correction=0).item() == pytest.approx(std, rel=0.5, abs=1e-6), name


@pytest.mark.parametrize(
    "options", [{"device_map": "cpu"}, {"dtype": torch.bfloat16}, {"attn_implementation": "eager"}]
)
def test_options_of_loading(options: dict[str, Any], tmp_path: Path) -> None:
    model = made(hierax.HieraForImageClassification)
    model.save_pretrained(tmp_path)
    read = HieraxForImageClassification.from_pretrained(tmp_path, **options)
    assert read.dtype == options.get("dtype", torch.float32)
    assert_same(read(pixels(model)).logits.float(), model(pixels(model)).logits, atol=0.05 if "dtype" in options else 0)


def test_weights_on_disk_give_the_same_answers(tmp_path: Path) -> None:
    model = made(hierax.HieraForImageClassification, layer_scale_init=0.1)
    model.save_pretrained(tmp_path / "model")
    where = {
        "hiera.embeddings": "cpu",
        "hiera.encoder": "disk",
        "hiera.pooler": "cpu",
        "classifier": "disk",
        "dropout": "cpu",
    }
    read = HieraxForImageClassification.from_pretrained(
        tmp_path / "model", device_map=where, offload_folder=tmp_path / "offload"
    )
    assert any(p.is_meta for p in read.parameters())
    with torch.no_grad():
        assert_same(read(pixels(model)), model(pixels(model)))


# -- PyTorch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "cls"), PAIRS)
def test_models_are_copied_and_pickled(task: Any, cls: Any) -> None:
    same = cls.from_hierax(made(task, **GEOMETRIES["abs-win"]))
    noise = {"noise": torch.rand(2, 4)} if task is hierax.HieraForPreTraining else {}
    expected = same(pixels(same), **noise)
    for other in (copy.deepcopy(same), pickle.loads(pickle.dumps(same))):
        assert_same(other(pixels(same), **noise), expected)
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert_same(same(pixels(same), **noise), expected)


@pytest.mark.parametrize(("task", "cls"), [*PAIRS[:3], *PAIRS[4:]])
@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["classic", "abs-win"])
def test_models_compile_as_one_graph(task: Any, cls: Any, geometry: str) -> None:
    same = cls.from_hierax(made(task, **GEOMETRIES[geometry]))
    compiled = torch.compile(same, backend="eager", fullgraph=True)
    atol = 1e-5 if task is hierax.HieraForSemanticSegmentation else 1e-6  # logits of thousands of pixels
    with torch.no_grad():
        assert_same(compiled(pixels(same)), same(pixels(same)), atol=atol)


def test_models_are_exported() -> None:
    same = HieraxForImageClassification.from_hierax(made(hierax.HieraForImageClassification))
    program = torch.export.export(same, (), {"pixel_values": pixels(same)})
    with torch.no_grad():
        assert_same(program.module()(pixel_values=pixels(same)).logits, same(pixels(same)).logits, atol=1e-6)


def test_an_adapter_put_into_the_tree_is_computed() -> None:
    same: Any = HieraxForImageClassification.from_hierax(made(hierax.HieraForImageClassification))
    before = same(pixels(same)).logits
    attention = same.hiera.encoder.stages[1].layers[0].attn
    attention.qkv = nn.Sequential(attention.qkv, nn.Dropout(1.0).train())
    assert not torch.equal(same(pixels(same)).logits, before)


# -- clips ---------------------------------------------------------------------------------------------------------

VIDEO: dict[str, Any] = {
    **TINY,
    "image_size": (4, 64, 64),
    "patch_size": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "masked_unit_size": (1, 8, 8),
    "query_stride": (1, 2, 2),
    "position_embedding": "separable",
}


def test_clips_have_their_time_before_their_channels(tmp_path: Path) -> None:
    model = made(hierax.HieraForVideoClassification, **VIDEO)
    HieraxForVideoClassification.from_hierax(model).save_pretrained(tmp_path)
    read = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert type(read) is HieraxForVideoClassification
    assert read.config.num_frames == 4
    clips = torch.randn(2, 3, 4, 64, 64)
    assert_same(read(clips.transpose(1, 2)), model(clips))


def test_the_video_processor_makes_such_clips() -> None:
    frames = torch.randint(0, 256, (9, 50, 70, 3), dtype=torch.uint8)
    options: dict[str, Any] = {"num_frames": 4, "sampling_rate": 2, "size": 64, "crop_size": 64}
    own = hierax.HieraVideoProcessor(**options)(frames)["pixel_values"]
    theirs = HieraxVideoProcessor(**options)(frames)["pixel_values"]
    assert torch.equal(theirs, own.transpose(1, 2))


def test_all_frames_of_several_videos_are_taken_without_sampling() -> None:
    processor = HieraxVideoProcessor(size=32, crop_size=32, num_frames=4)
    clip = np.zeros((6, 32, 32, 3), np.uint8)
    for videos in ([clip, clip], np.stack([clip, clip]), [list(clip), list(clip)]):
        assert processor(videos, do_sample_frames=False)["pixel_values"].shape == (2, 6, 3, 32, 32)
    for one in (clip, list(clip), torch.from_numpy(clip)):
        assert processor(one, do_sample_frames=False)["pixel_values"].shape == (1, 6, 3, 32, 32)
    with pytest.raises(ValueError, match=r"do_sample_frames is False, but clip\.mp4 is a file, not frames"):
        processor("clip.mp4", do_sample_frames=False)
    with pytest.raises(ValueError, match="the videos have 5 and 6 frames; expected one number"):
        processor([clip, clip[:5]], do_sample_frames=False)


def test_a_neck_is_refused() -> None:
    neck = hierax.HieraBackbone(hierax.HieraConfig(**TINY, fpn_hidden_size=16))
    with pytest.raises(ValueError, match="fpn_hidden_size is 16, but HieraxBackbone has no neck"):
        HieraxBackbone.from_hierax(neck)


def test_a_model_of_another_task_is_refused() -> None:
    with pytest.raises(TypeError, match="model is a HieraModel; expected a HieraForImageClassification"):
        HieraxForImageClassification.from_hierax(made(hierax.HieraModel))


def test_a_change_stays_within_its_mask_units_which_is_not_so_in_transformers(tmp_path: Path) -> None:
    made(hierax.HieraModel).save_pretrained(tmp_path)
    share = []
    for backbone in (transformers.HieraBackbone, HieraxBackbone):
        model = backbone.from_pretrained(tmp_path, out_features=["stage1"]).eval()
        image = torch.randn(1, 3, 64, 64)
        changed = image.clone()
        changed[:, :, :21, :21] = 0
        difference = (model(image).feature_maps[0] - model(changed).feature_maps[0]).abs().amax(1)
        share.append((difference[:, 8:, 8:] > 1e-4).float().mean().item())
    assert share[0] > 0.9
    assert share[1] == 0


def test_a_checkpoint_that_comes_with_hierax_has_a_name() -> None:
    config: Any = HieraxConfig.from_pretrained("hierax/femto")
    assert config.id2label[0] == hierax.load("hierax/femto").config.id2label[0]
    backbone: Any = HieraxBackbone.from_pretrained("hierax/femto", out_features=["stage1"])
    assert (backbone.channels, backbone.dtype) == ([40], torch.float32)
    half: Any = HieraxModel.from_pretrained("hierax/femto", dtype=torch.float16)
    assert half.dtype == torch.float16


def test_a_folder_with_the_name_of_a_bundled_checkpoint_counts_if_it_has_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone of hierax in the working directory has a folder `hierax/femto`, with scripts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hierax" / "femto").mkdir(parents=True)
    config: Any = HieraxConfig.from_pretrained("hierax/femto")
    assert len(config.id2label) == 30
    config.id2label = {0: "mine", 1: "other"}
    config.save_pretrained("hierax/femto")
    again: Any = HieraxConfig.from_pretrained("hierax/femto")
    assert again.id2label == {0: "mine", 1: "other"}
