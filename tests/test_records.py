import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hierax.checkpoint.class_names import load_labels
from hierax.checkpoint.records import CheckpointRecord, find_record, list_checkpoints
from hierax.model.config import list_models

KEYS = Path(__file__).parent / "data" / "keys"


def record(key: str) -> CheckpointRecord:
    found = find_record(key)
    assert found is not None, key
    return found


def key_list(name: str) -> dict[str, Any]:
    return json.loads((KEYS / f"{name}.json").read_text(encoding="utf-8"))


def published() -> list[CheckpointRecord]:
    return [record for record in list_checkpoints() if not record.bundled]


def test_the_table_lists_every_id_once() -> None:
    ids = [r.hub_id for r in list_checkpoints()]
    assert len(ids) == len(set(ids)) == 72


def test_what_comes_with_hierax_stands_first() -> None:
    assert [r.hub_id for r in list_checkpoints() if r.bundled] == [r.hub_id for r in list_checkpoints()[:2]]
    assert [r.hub_id for r in list_checkpoints()[:2]] == ["hierax/femto", "hierax/femto.mae"]


@pytest.mark.parametrize(("dialect", "count"), [("official", 20), ("transformers", 26), ("timm", 24)])
def test_each_dialect_has_all_its_published_files(dialect: str, count: int) -> None:
    assert len([r for r in published() if r.dialect == dialect]) == count


@pytest.mark.parametrize(
    ("hub_id", "task", "dialect", "name"),
    [
        ("facebook/hiera_tiny_224.mae_in1k_ft_in1k", "classification", "official", "hiera_tiny_224.mae_in1k_ft_in1k"),
        ("facebook/hiera_huge_16x224.mae_k400", "mae", "official", "hiera_huge_16x224.mae_k400"),
        (
            "facebook/hiera-base-plus-224-in1k-hf",
            "classification",
            "transformers",
            "hiera_base_plus_224.mae_in1k_ft_in1k",
        ),
        ("facebook/hiera-small-224-hf", "features", "transformers", "hiera_small_224.mae_in1k"),
        ("facebook/hiera-large-224-mae-hf", "mae", "transformers", "hiera_large_224.mae_in1k"),
        ("timm/hiera_base_224.mae", "features", "timm", "hiera_base_224.mae_in1k"),
        (
            "timm/hiera_small_abswin_256.sbb2_pd_e200_in12k",
            "classification",
            "timm",
            "hiera_small_abswin_256.sbb2_pd_e200_in12k",
        ),
    ],
)
def test_a_hub_id_says_task_dialect_and_name(hub_id: str, task: str, dialect: str, name: str) -> None:
    found = record(hub_id)
    assert (found.hub_id, found.task, found.dialect, found.name) == (hub_id, task, dialect, name)


def test_a_name_begins_with_its_variant() -> None:
    assert [r.name for r in list_checkpoints() if not r.name.startswith(f"{r.variant}.")] == []


def test_every_variant_of_the_table_can_be_built() -> None:
    assert {r.variant for r in list_checkpoints()} <= set(list_models())


def test_of_published_weights_only_those_with_abs_win_and_sam_2_may_be_used_commercially() -> None:
    free = {r.hub_id for r in published() if r.license == "Apache-2.0"}
    assert free - {r.hub_id for r in published() if r.variant.startswith("sam2_")} == {
        f"timm/hiera_small_abswin_256.sbb2_{tag}"
        for tag in ("e200_in12k", "e200_in12k_ft_in1k", "pd_e200_in12k", "pd_e200_in12k_ft_in1k")
    }
    assert {r.license for r in list_checkpoints()} == {"Apache-2.0", "CC-BY-NC-4.0"}


def test_only_classifiers_have_labels() -> None:
    assert [r.hub_id for r in list_checkpoints() if (r.num_labels > 0) != (r.task == "classification")] == []


def test_label_sets_have_as_many_names_as_the_head_has_outputs() -> None:
    named = [r for r in list_checkpoints() if r.labels is not None]
    assert [r.hub_id for r in named if len(load_labels(r.labels or "")) != r.num_labels] == []
    assert len(named) == 24


def test_accuracy_is_that_of_the_paper_in_every_dialect() -> None:
    tiny = [r.top1 for r in list_checkpoints(variant="hiera_tiny_224", task="classification")]
    assert tiny == [82.8] * 3
    assert record("facebook/hiera_huge_16x224.mae_k400_ft_k400").top1 == 87.8


def test_weights_that_cannot_classify_the_benchmark_have_no_accuracy() -> None:
    assert [r.hub_id for r in list_checkpoints() if (r.top1 is None) != (r.labels is None)] == []


def test_seed_checkpoints_say_that_their_pooler_norm_was_never_trained() -> None:
    seeds = list_checkpoints(dialect="transformers", task="features")
    assert len(seeds) == 6
    assert all("pooler norm was never trained" in r.note and "-224-in1k-hf" in r.note for r in seeds)


@pytest.mark.parametrize(
    ("hub_id", "preprocessing", "crop_pct"),
    [
        ("facebook/hiera-tiny-224-hf", "imagenet", 0.875),
        ("facebook/hiera_base_16x224.mae_k400", "kinetics", 0.875),
        ("timm/hiera_tiny_224.mae", "timm", 0.9),
        ("timm/hiera_small_abswin_256.sbb2_e200_in12k", "timm", 0.95),
    ],
)
def test_preprocessing_is_the_publishers_own(hub_id: str, preprocessing: str, crop_pct: float) -> None:
    assert (record(hub_id).preprocessing, record(hub_id).crop_pct) == (preprocessing, crop_pct)


def test_video_is_all_kinetics() -> None:
    video = {r.hub_id for r in list_checkpoints() if "16x224" in r.variant}
    assert video == {r.hub_id for r in list_checkpoints() if r.preprocessing == "kinetics"}
    assert video == {r.hub_id for r in list_checkpoints() if r.pretraining_data == "kinetics-400"}


@pytest.mark.parametrize(
    ("hub_id", "keys"),
    [
        ("facebook/hiera_tiny_224.mae_in1k_ft_in1k", "official.hiera_tiny_224"),
        ("facebook/hiera_base_plus_224.mae_in1k_ft_in1k", "official.hiera_base_plus_224"),
        ("facebook/hiera_base_16x224.mae_k400_ft_k400", "official.hiera_base_16x224"),
        ("facebook/hiera_tiny_224.mae_in1k", "official.mae_hiera_tiny_224"),
        ("facebook/hiera_base_16x224.mae_k400", "official.mae_hiera_base_16x224"),
        ("timm/hiera_tiny_224.mae_in1k_ft_in1k", "timm.hiera_tiny_224"),
        ("timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k", "timm.hiera_small_abswin_256"),
        ("facebook/hiera-tiny-224-hf", "transformers.HieraModel"),
        ("facebook/hiera-tiny-224-in1k-hf", "transformers.HieraForImageClassification"),
        ("facebook/hiera-tiny-224-mae-hf", "transformers.HieraForPreTraining"),
    ],
)
def test_parameters_are_those_of_the_published_package(hub_id: str, keys: str) -> None:
    assert record(hub_id).parameters == key_list(keys)["parameters"]


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.json")), ids=lambda p: p.stem)
def test_a_key_lists_shapes_add_up_to_its_parameters(path: Path) -> None:
    listed = key_list(path.stem)
    assert sum(math.prod(shape) for shape in listed["tensors"].values()) == listed["parameters"]


def test_filters_are_joined_by_and() -> None:
    found = list_checkpoints(task="mae", variant="hiera_tiny_224", license="CC-BY-NC-4.0", dialect="transformers")
    assert [r.hub_id for r in found] == ["facebook/hiera-tiny-224-mae-hf"]


def test_filters_that_exclude_each_other_give_nothing() -> None:
    assert list_checkpoints(license="Apache-2.0", dialect="official") == ()


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"task": "detection"}, "task is 'detection'; expected one of classification, features, mae"),
        ({"license": "MIT"}, "license is 'MIT'; expected one of CC-BY-NC-4.0, Apache-2.0"),
        ({"dialect": "sam2"}, "dialect is 'sam2'; expected one of official, transformers, timm"),
        ({"variant": "tiny"}, "variant is 'tiny'; expected one of hiera_femto_160, .*hiera_small_abswin_256"),
    ],
)
def test_a_bad_filter_value_is_refused_with_what_is_allowed(filters: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_checkpoints(**filters)


def test_a_shared_name_means_the_official_file() -> None:
    assert record("hiera_tiny_224.mae_in1k").hub_id == "facebook/hiera_tiny_224.mae_in1k"


def test_a_record_is_found_without_the_owner_of_its_hub_id() -> None:
    assert record("hiera-tiny-224-hf").hub_id == "facebook/hiera-tiny-224-hf"


@pytest.mark.parametrize(
    "key", ["", "hierax/nano", "hiera_tiny_224", "facebook/sam2-hiera-tiny-hf", "other/hiera-tiny-224-hf"]
)
def test_what_is_not_in_the_table_is_not_found(key: str) -> None:
    assert find_record(key) is None


def test_listing_checkpoints_does_not_import_torch() -> None:
    code = "import sys; from hierax.checkpoint.records import list_checkpoints as f; f(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
