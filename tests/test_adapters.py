"""Adapters: opened as models, equal to what PEFT computes, with names of every format, or refused in one sentence."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hierax
from hierax.checkpoint.opened import DIALECTS
from hierax.cli import main
from hierax.integrations.transformers import HieraxForImageClassification, HieraxForSemanticSegmentation
from hierax.notices import Notice
from test_checkpoint_hub import cache

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

pytest_plugins = ("bases",)
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model.eval()(PIXELS)
    return found if isinstance(found, Tensor) else found.logits


def adapted(base: Path, model: nn.Module, head: str, **settings: Any) -> Any:
    """A model with an adapter of PEFT whose matrices are not zero."""
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": ["qkv"], "modules_to_save": [head], **settings}
    )
    made: Any = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    made.peft_config["default"].base_model_name_or_path = str(base)
    return made


def own(base: Path) -> nn.Module:
    return hierax.load(base)


def integrated(base: Path) -> nn.Module:
    return HieraxForImageClassification.from_pretrained(base)


def of_transformers(base: Path) -> nn.Module:
    return transformers.HieraForImageClassification.from_pretrained(base)


def test_an_adapter_with_a_head_for_segmentation_is_opened(base: Path, tmp_path: Path) -> None:
    changed: dict[str, Any] = {"num_labels": 2, "ignore_mismatched_sizes": True}
    model = HieraxForSemanticSegmentation.from_pretrained(base, **changed)
    made = adapted(base, model, "segmentation")
    made.save_pretrained(tmp_path / "adapter")
    opened = hierax.load(tmp_path / "adapter")
    assert isinstance(opened, hierax.HieraForSemanticSegmentation)
    assert opened.config.num_labels == 2
    torch.testing.assert_close(logits(opened), logits(made), atol=1e-5, rtol=1e-5)


KINDS: dict[str, tuple[Callable[[Path], nn.Module], str]] = {
    "hierax": (own, "head"),
    "integration": (integrated, "classifier"),
    "transformers": (of_transformers, "classifier"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "qkv": {},
    "convolution too": {"target_modules": ["qkv", "proj", "projection"]},
    "root of the rank": {"use_rslora": True},
    "ranks by layer": {"target_modules": ["qkv", "fc1"], "alpha_pattern": {"fc1": 5}, "rank_pattern": {"qkv": 2}},
    "biases": {"bias": "all"},
    "bias of B": {"lora_bias": True},
}


# -- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_adapter_gives_what_peft_gives_and_what_peft_merges(settings: str, base: Path, tmp_path: Path) -> None:
    model = adapted(base, integrated(base), "classifier", **SETTINGS[settings])
    model.save_pretrained(str(tmp_path))
    found = logits(hierax.load(tmp_path))
    torch.testing.assert_close(found, logits(model), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, logits(model.merge_and_unload()), rtol=0, atol=1e-6)
    assert not torch.allclose(found, logits(own(base)), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_names_of_any_format(kind: str, base: Path, tmp_path: Path) -> None:
    make, head = KINDS[kind]
    model = adapted(base, make(base), head)
    model.save_pretrained(str(tmp_path))
    torch.testing.assert_close(logits(hierax.load(tmp_path)), logits(model), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dialect", ["timm", "official"])
def test_an_adapter_of_a_model_of_timm_or_meta_is_opened(dialect: str, base: Path, tmp_path: Path) -> None:
    model = adapted(base, own(base), "head", target_modules=["qkv", "attn.proj", "fc2"])
    model.save_pretrained(str(tmp_path))
    path, renamed = tmp_path / "adapter_model.safetensors", {}
    for name, tensor in load_file(path).items():
        layer, mark, matrix = name.removeprefix("base_model.model.").partition(".lora_")
        theirs = DIALECTS[dialect].theirs(f"{layer}.weight" if mark else layer, (1, 2, 3, 2))
        renamed[f"base_model.model.{theirs.removesuffix('.weight') + mark + matrix if mark else theirs}"] = tensor
    assert "base_model.model.blocks.0.attn.qkv.lora_A.weight" in renamed
    save_file(renamed, path)
    torch.testing.assert_close(logits(hierax.load(tmp_path)), logits(model), rtol=0, atol=1e-5)


def test_a_half_precision_base_is_merged_in_float32(base: Path, tmp_path: Path) -> None:
    hierax.load(base, dtype="float16").save_pretrained(tmp_path / "half")
    model = adapted(tmp_path / "half", hierax.load(tmp_path / "half"), "head")
    model.save_pretrained(str(tmp_path / "adapter"))
    merged = hierax.load(tmp_path / "adapter", dtype="auto")
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)


# -- what is opened ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as PEFT writes it, with a head of three classes."""
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    model = HieraxForImageClassification.from_pretrained(base, num_labels=3, ignore_mismatched_sizes=True)
    adapted(base, model, "classifier").save_pretrained(str(folder))
    return folder


def copy_of(adapter: Path, tmp_path: Path, **values: Any) -> Path:
    """A copy of an adapter with other values in its configuration."""
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    path = copy / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return copy


def test_the_head_of_the_adapter_replaces_that_of_the_base(adapter: Path, base: Path) -> None:
    opened = hierax.open_checkpoint(adapter)
    assert (opened.task, opened.base) == ("classification", str(base))
    assert opened.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "adapter, merged into its base model" in str(opened.model().loading_report)


def test_the_file_of_an_adapter_is_opened_as_its_folder(adapter: Path) -> None:
    assert torch.equal(logits(hierax.load(adapter / "adapter_model.safetensors")), logits(hierax.load(adapter)))


def test_an_adapter_in_a_pickle_is_opened(adapter: Path, tmp_path: Path) -> None:
    copy = copy_of(adapter, tmp_path)
    path = copy / "adapter_model.safetensors"
    torch.save(load_file(path), copy / "adapter_model.bin")
    path.unlink()
    assert torch.equal(logits(hierax.load(copy)), logits(hierax.load(adapter)))


def test_opening_needs_no_peft(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(hierax.load(adapter))
    for name in ("peft", "accelerate", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert torch.equal(logits(hierax.load(adapter)), expected)


def test_opening_draws_no_random_numbers(adapter: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    hierax.open_checkpoint(adapter)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_base_can_be_given(adapter: Path, base: Path, tmp_path: Path) -> None:
    lost = copy_of(adapter, tmp_path, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"needs its base model .*gone, which cannot be opened"):
        hierax.load(lost)
    nameless = copy_of(adapter, tmp_path / "n", base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"does not name the base model; pass base= \(hierax convert --base\)"):
        hierax.load(nameless)
    for folder in (lost, nameless):
        expected = logits(hierax.load(adapter))
        assert torch.equal(logits(hierax.load(folder, base=base)), expected)
        assert torch.equal(logits(hierax.load(folder, base=hierax.open_checkpoint(base))), expected)
        model = hierax.HieraForImageClassification.from_pretrained(folder, base=base)
        assert torch.equal(logits(model), expected)


def test_a_base_that_is_not_in_the_cache_is_named(adapter: Path, tmp_path: Path) -> None:
    lost = copy_of(adapter, tmp_path, base_model_name_or_path="facebook/hiera-tiny-224-in1k-hf")
    with pytest.raises(OSError, match="needs its base model facebook/hiera-tiny-224-in1k-hf, which cannot be opened"):
        hierax.load(lost)


@pytest.mark.parametrize("known", [True, False], ids=["the cache knows what is absent", "the cache does not"])
def test_an_adapter_and_its_base_are_opened_from_the_cache_of_the_hub(
    known: bool, adapter: Path, base: Path, tmp_path: Path
) -> None:
    there = cache(tmp_path, "me/base", base.iterdir())
    named = copy_of(adapter, tmp_path, base_model_name_or_path="me/base", revision="main")
    files = [file for file in named.iterdir() if file.suffix != ".md"]
    absent = ("config.json", "preprocessor_config.json", "model.safetensors") if known else ()
    cache(tmp_path, "me/adapter", files, absent=absent)
    opened = hierax.load("me/adapter", cache_dir=there)
    assert torch.equal(logits(opened), logits(hierax.load(adapter)))


def test_a_model_with_an_adapter_beside_it_says_that_it_is_not_applied(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(base, tmp_path / "both"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, both)
    with pytest.warns(Notice, match="both: also holds an adapter, which is not applied to the model in it"):
        model = hierax.load(both)
    assert torch.equal(logits(model), logits(hierax.load(base)))


def test_a_folder_of_adapters_names_them(adapter: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it holds adapter: name the one you mean"):
        hierax.load(adapter.parent)


def test_convert_writes_the_merged_model(adapter: Path, tmp_path: Path) -> None:
    assert main(["convert", str(adapter), "-o", str(tmp_path / "merged")]) == 0
    assert torch.equal(logits(hierax.load(tmp_path / "merged")), logits(hierax.load(adapter)))
    assert main(["convert", str(adapter), "-o", str(tmp_path / "t"), "--to", "timm"]) == 0
    torch.testing.assert_close(logits(hierax.load(tmp_path / "t")), logits(hierax.load(adapter)), rtol=0, atol=1e-6)


def test_convert_takes_the_base(adapter: Path, base: Path, tmp_path: Path) -> None:
    lost = copy_of(adapter, tmp_path, base_model_name_or_path="nowhere/to-be-found")
    assert main(["convert", str(lost), "-o", str(tmp_path / "merged"), "--base", str(base)]) == 0
    assert torch.equal(logits(hierax.load(tmp_path / "merged")), logits(hierax.load(adapter)))


def test_classify_opens_an_adapter(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(Path(hierax.__file__).parent / "assets" / "cat.jpg")
    assert main(["classify", photo, "--model", str(adapter), "--json"]) == 0
    assert "LABEL_" in capsys.readouterr().out


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "the adapter has peft_type 'IA3'; hierax opens plain LoRA, so merge it"),
        ({"use_dora": True}, "the adapter has DoRA; hierax opens plain LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changes the base model"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; expected a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; expected a number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern is .*; expected names of layers with a number each"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3; expected a text"),
    ],
)
def test_other_kinds_and_wrong_values_are_refused(
    values: dict[str, Any], message: str, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        hierax.load(copy_of(adapter, tmp_path, **values))


def test_a_dora_adapter_of_peft_is_refused_by_its_tensors_too(base: Path, tmp_path: Path) -> None:
    adapted(base, own(base), "head", use_dora=True).save_pretrained(str(tmp_path / "dora"))
    with pytest.raises(ValueError, match=r"lora_magnitude_vector.* belongs to a kind of LoRA that hierax does"):
        hierax.load(copy_of(tmp_path / "dora", tmp_path, use_dora=False))


def test_matrices_that_do_not_fit_are_refused(adapter: Path, tmp_path: Path) -> None:
    def changed(name: str, change: Callable[[dict[str, Tensor]], object]) -> Path:
        copy = copy_of(adapter, tmp_path / name)
        tensors = load_file(copy / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, copy / "adapter_model.safetensors")
        return copy

    down = next(n for n in load_file(adapter / "adapter_model.safetensors") if n.endswith("lora_A.weight"))
    with pytest.raises(ValueError, match=r"which do not fit a weight \[24, 8\]"):
        hierax.load(changed("a", lambda t: t.update({down: torch.zeros(4, 9)})))
    with pytest.raises(ValueError, match=r"needs two matrices of floating-point numbers"):
        hierax.load(changed("b", lambda t: t.pop(down)))
    with pytest.raises(ValueError, match=r"has other\.weight, which the base model .*base does not have"):
        hierax.load(changed("c", lambda t: t.update({"base_model.model.other.weight": torch.zeros(3)})))
    with pytest.raises(ValueError, match="NaN or infinite"):
        hierax.load(changed("d", lambda t: t.update({down: torch.full_like(t[down], torch.nan)})))


def test_an_adapter_is_no_base(adapter: Path, tmp_path: Path) -> None:
    itself = copy_of(adapter, tmp_path, base_model_name_or_path=str(tmp_path / "copy"))
    with pytest.raises(ValueError, match=r"its base model .*copy is an adapter too; hierax convert .* -o MODEL"):
        hierax.load(itself)


def test_a_whole_model_takes_no_base(base: Path) -> None:
    with pytest.raises(ValueError, match=r"base is .*, but .* is a whole model; expected base= for an adapter only"):
        hierax.load(base, base=base)
    with pytest.raises(ValueError, match="is open; expected it in open_checkpoint"):
        hierax.load(hierax.open_checkpoint(base), base=base)


def test_a_folder_with_half_of_an_adapter_says_so(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(adapter / "adapter_config.json", tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"holds the adapter_config\.json of an adapter, but not its tensors"):
        hierax.load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(adapter / "adapter_model.safetensors", tmp_path / "b")
    with pytest.raises(ValueError, match=r"adapter_config\.json: is missing; it states the scale of the adapter"):
        hierax.load(tmp_path / "b")
