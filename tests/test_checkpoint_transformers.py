"""Folders saved here open in `transformers` with equal outputs, and the reverse.

Their `HieraBackbone` does not unroll its tokens, so that its outputs are wrong whatever the file says; for backbones
the tensors are compared, and the outputs with those of their `HieraModel` of the same file.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hierax
from auto_classes import unregistered
from hierax import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from hierax.checkpoint.save import named_tensors
from hierax.model.config import HieraConfig
from small import CONFIGS, fresh_seed, image_config, pixels, randomize, relative, units_of

Save = Callable[..., Path]
LIMIT = 1e-5
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
BOTH = ("HieraModel", "HieraForImageClassification", "HieraForPreTraining", "HieraBackbone")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    fresh_seed()
    yield
    transformers.logging.set_verbosity(level)


def config_of(name: str) -> HieraConfig:
    return image_config(num_query_pool=2) if name == "HieraForPreTraining" else image_config(out_features=STAGES)


def their_config(name: str, **changes: Any) -> Any:
    values: dict[str, Any] = dict(embed_dim=8, depths=[1, 2, 3, 2], image_size=[64, 64], **changes)
    if name == "HieraForPreTraining":
        values |= {"num_query_pool": 2, "decoder_hidden_size": 16, "decoder_depth": 2, "decoder_num_heads": 4}
    if name == "HieraBackbone":
        values |= {"out_features": list(STAGES)}
    return transformers.HieraConfig(**values)


@torch.no_grad()
def differences(ours: Any, theirs: Any, config: HieraConfig) -> dict[str, float]:
    """Relative differences of all outputs that both have, stage maps among them."""
    x, noise = pixels(config), {}
    if isinstance(ours, HieraForPreTraining):
        noise = {"noise": torch.rand(2, units_of(config))}
    a = ours.eval()(x, output_hidden_states=True, output_attentions=True, **noise)
    b = theirs.eval()(x, output_hidden_states=True, output_attentions=True, **noise)
    names = [n for n in a.keys() if n in b.keys() and n not in ("bool_masked_pos", "ids_restore")]  # noqa: SIM118
    found: dict[str, float] = {}
    for name in names:
        parts = zip(*((v if isinstance(v, tuple) else (v,)) for v in (a[name], b[name])), strict=True)
        found |= {f"{name}.{i}": relative(*pair) for i, pair in enumerate(parts)}
    return found


def working_class(name: str) -> Any:
    """The class of transformers with right outputs for a file of class `name`."""
    return getattr(transformers, "HieraModel" if name == "HieraBackbone" else name)


def outputs_of(name: str) -> set[str]:
    own = {
        "HieraModel": {"last_hidden_state", "pooler_output"},
        "HieraForImageClassification": {"logits"},
        "HieraForPreTraining": {"logits", "loss"},
        "HieraBackbone": set(),
    }[name]
    return own | {"hidden_states", "attentions"} | (set() if name == "HieraBackbone" else {"reshaped_hidden_states"})


@pytest.mark.parametrize("name", BOTH)
def test_a_folder_saved_by_us_opens_in_transformers_with_equal_outputs(name: str, saved: Save) -> None:
    config = config_of(name)
    folder = saved(getattr(hierax, name), config)
    ours = getattr(hierax, name).from_pretrained(folder)
    found = differences(ours, working_class(name).from_pretrained(folder), config)
    assert {key.split(".")[0] for key in found} == outputs_of(name)
    assert max(found.values()) <= LIMIT


@pytest.mark.parametrize("name", BOTH)
def test_a_folder_saved_by_transformers_opens_here_with_equal_outputs(name: str, tmp_path: Path) -> None:
    theirs: Any = randomize(getattr(transformers, name)(their_config(name)))
    theirs.save_pretrained(tmp_path)
    ours = getattr(hierax, name).from_pretrained(tmp_path)
    theirs = theirs if name != "HieraBackbone" else working_class(name).from_pretrained(tmp_path)
    assert max(differences(ours, theirs, ours.config).values()) <= LIMIT


def test_a_backbone_saved_by_us_has_the_tensors_that_transformers_expects(saved: Save) -> None:
    folder = saved(HieraBackbone, config_of("HieraBackbone"), norms=True)
    opened: Any = transformers.HieraBackbone.from_pretrained(folder, output_loading_info=True)
    theirs, info = opened
    assert not any(info.values())
    ours = HieraBackbone.from_pretrained(folder, norms=True)
    named = named_tensors(ours, "transformers")
    assert all(torch.equal(tensor, named[name]) for name, tensor in theirs.state_dict().items())


@torch.no_grad()
def test_our_backbone_equals_their_reshaped_hidden_states(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config())
    x = pixels(image_config())
    maps = HieraBackbone.from_pretrained(folder, out_features=STAGES)(x).feature_maps
    theirs = transformers.HieraForImageClassification.from_pretrained(folder).eval()(x, output_hidden_states=True)
    assert len(maps) == 5
    assert max(relative(m.movedim(1, -1), t) for m, t in zip(maps, theirs.reshaped_hidden_states, strict=True)) <= LIMIT


@torch.no_grad()
def test_our_normalized_backbone_has_the_norms_of_their_file(tmp_path: Path) -> None:
    theirs: Any = randomize(transformers.HieraBackbone(their_config("HieraBackbone")))
    theirs.save_pretrained(tmp_path)
    ours = HieraBackbone.from_pretrained(tmp_path, out_features=STAGES, norms=True)
    x = pixels(ours.config)
    grids = transformers.HieraModel.from_pretrained(tmp_path).eval()(x, output_hidden_states=True)
    for name, ours_map, grid in zip(STAGES, ours(x).feature_maps, grids.reshaped_hidden_states, strict=True):
        expected = theirs.hidden_states_norms[name](grid).movedim(-1, 1)
        assert relative(ours_map, expected) <= LIMIT


def test_transformers_writes_nothing_missing_when_it_opens_ours(saved: Save) -> None:
    for name in BOTH[:3]:
        _, info = getattr(transformers, name).from_pretrained(
            saved(getattr(hierax, name), config_of(name)), output_loading_info=True
        )
        assert not any(info.values()), (name, info)


def test_unknown_keys_of_a_transformers_config_are_kept_and_written_back(tmp_path: Path) -> None:
    theirs = transformers.HieraModel(their_config("HieraModel", their_note={"a": [1, None]}, pruned_heads={}))
    theirs.save_pretrained(tmp_path / "a")
    before = json.loads((tmp_path / "a" / "config.json").read_text())
    HieraModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    after = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {"their_note", "transformers_version"} <= set(before)
    assert {k: after.get(k) for k in before if before[k] is not None} == {
        k: v for k, v in before.items() if v is not None
    }


@pytest.mark.parametrize("count", [2, 3])
def test_a_classifier_config_without_names_takes_the_number_of_labels_from_the_head(count: int, tmp_path: Path) -> None:
    config = their_config("HieraForImageClassification", num_labels=count)
    transformers.HieraForImageClassification(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    unnamed = {name: value for name, value in values.items() if name not in ("id2label", "label2id")}
    (tmp_path / "config.json").write_text(json.dumps(unnamed))
    assert HieraForImageClassification.from_pretrained(tmp_path).config.num_labels == count


def test_label_names_arrive_in_transformers_and_come_back(saved: Save, tmp_path: Path) -> None:
    config = image_config(num_labels=2, id2label={0: "cat", 1: "dög"})
    theirs = transformers.HieraForImageClassification.from_pretrained(saved(HieraForImageClassification, config))
    assert theirs.config.id2label == {0: "cat", 1: "dög"}
    theirs.save_pretrained(tmp_path / "theirs")
    assert HieraForImageClassification.from_pretrained(tmp_path / "theirs").config.id2label == config.id2label


@pytest.mark.parametrize("name", BOTH)
def test_from_transformers_to_us_and_back_nothing_is_lost(name: str, tmp_path: Path) -> None:
    theirs: Any = randomize(getattr(transformers, name)(their_config(name)))
    theirs.save_pretrained(tmp_path / "a")
    norms = {"norms": True} if name == "HieraBackbone" else {}
    getattr(hierax, name).from_pretrained(tmp_path / "a", **norms).save_pretrained(tmp_path / "b")
    back = getattr(transformers, name).from_pretrained(tmp_path / "b")
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    kept = {k: v for k, v in theirs.config.to_dict().items() if not k.startswith("decoder_") and k != "_name_or_path"}
    again = back.config.to_dict()
    if name != "HieraForImageClassification":  # theirs has two labels by default and ours a thousand
        kept = {k: v for k, v in kept.items() if k not in ("id2label", "label2id")}
    assert {k: again[k] for k in kept} == kept


def test_a_precision_is_written_and_read_as_theirs(saved: Save, tmp_path: Path) -> None:
    model = HieraModel.from_pretrained(saved(HieraModel, image_config()), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    theirs = transformers.HieraModel.from_pretrained(tmp_path / "half", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    assert HieraModel.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16


def test_the_preprocessing_record_opens_in_transformers(saved: Save, tmp_path: Path) -> None:
    HieraModel.from_pretrained(saved(HieraModel, image_config())).save_pretrained(tmp_path / "m")
    record = transformers.BitImageProcessorPil.from_pretrained(tmp_path / "m")
    assert (dict(record.size), dict(record.crop_size)) == ({"shortest_edge": 73}, {"height": 64, "width": 64})


# -- what transformers cannot represent -------------------------------------------------------------------------------

FOREIGN: dict[str, Callable[[], HieraConfig]] = {
    **{name: CONFIGS[name] for name in ("abs_win", "video", "line", "volume")},
    "layer scale": lambda: image_config(layer_scale_init=0.1),
    "pooled shortcut": lambda: image_config(pooled_shortcut=True),
    "unit attention after fewer poolings": lambda: image_config(num_query_pool=1),
    "unit attention after global": lambda: image_config(masked_unit_attention=(False, True, False, False)),
    "larger mask units": lambda: image_config(masked_unit_size=16, image_size=128),
    "a size that is no multiple": lambda: image_config(image_size=(50, 64)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_transformers_refuses_what_it_would_open_wrongly(kind: str, saved: Save) -> None:
    folder = saved(HieraForImageClassification, FOREIGN[kind]())
    with unregistered(), pytest.raises(ValueError, match="hierax"):
        transformers.AutoModel.from_pretrained(folder)
    for name in ("HieraModel", "HieraForImageClassification", "HieraBackbone"):
        with pytest.raises((ValueError, RuntimeError), match=r"ignore_mismatched_sizes|dimensions of the input image"):
            getattr(transformers, name).from_pretrained(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (64, 96)},
        {"num_query_pool": 2},
        {"num_heads": (2, 2, 2, 2)},
        {"mlp_ratio": 2.5, "hidden_act": "relu", "layer_norm_eps": 1e-3, "num_channels": 4},
        {"patch_size": 4, "patch_padding": 0},
        {"masked_unit_attention": (True, True, True, False)},
    ],
    ids=str,
)
def test_what_keeps_the_model_type_of_transformers_has_equal_outputs_there(
    changes: dict[str, Any], saved: Save
) -> None:
    config = image_config(**changes)
    folder = saved(HieraModel, config)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "hiera"
    found = differences(HieraModel.from_pretrained(folder), transformers.HieraModel.from_pretrained(folder), config)
    assert max(found.values()) <= LIMIT


def test_a_folder_with_our_model_type_opens_here(saved: Save) -> None:
    for kind, make in FOREIGN.items():
        folder = saved(HieraForImageClassification, make())
        assert json.loads((folder / "config.json").read_text())["model_type"] == "hierax", kind
        assert HieraForImageClassification.from_pretrained(folder).config.image_size == make().image_size
