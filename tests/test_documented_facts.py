"""Facts that pages state in words: versions, public packages, names, defaults. tests/test_docs.py runs programs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import hierax
from hierax import HieraForImageClassification
from hierax.cli import _parser, duplicates, outliers, search
from hierax.collection import Hit, Member, Outlier
from hierax.detection.recipes import RECIPES as DETECTION
from hierax.extras import PACKAGES
from hierax.train import RECIPES
from hierax.train.choice import largest_batch
from hierax.train.modes import MODES
from hierax.train.settings import RESUMABLE_SETTINGS
from public_surface import PACKAGES as PUBLIC
from small import image_config
from test_docs import _expanded, prose

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for folder in (".", "docs", "docs/reference", "notebooks", "femto")
    for path in sorted((ROOT / folder).glob("*.md"))
    if path.name != "log.md"
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose heading begins so."""
    lines = text(page).partition(f"\n{heading}")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_extras_are_installed_from_the_folder_of_the_repository() -> None:
    """hierax is not on PyPI, where somebody else could take the name."""
    wrong = {path.name: re.findall(r"install [^`\n]*hierax\[\w+\]", path.read_text(encoding="utf-8")) for path in PAGES}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_versions_of_packages_are_those_of_the_extras() -> None:
    sentence = r"`pip install \"\.\[(\w+)\]\"`[^`]*?installs (\w+) ([\d.]+) or newer"
    stated = re.findall(sentence, text("docs/integrations.md"))
    assert [extra for extra, _, _ in stated] == ["transformers", "timm", "adapters"]
    for _, name, version in stated:
        assert PACKAGES[name.lower()].requirement.rpartition(">=")[2] == version, name


def test_the_page_on_stability_names_every_public_package() -> None:
    named = re.findall(r"`(hierax[\w.]*)\.__all__`", text("docs/stability.md"))
    assert sorted(named) == sorted([*PUBLIC, "hierax.integrations.timm"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_of_hierax_in_the_text_of_a_page_exist(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page.read_text(encoding="utf-8")))
    names = {name for span in spans for name in re.findall(r"(?<![\w/.-])hierax(?:\.[A-Za-z_]\w*)+", span)}
    for name in names:
        if name.startswith("hierax.integrations.timm") or name.endswith((".__all__", ".json")):
            continue  # timm may be missing; .json is a file
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether `hierax.a.b` is a module, or something in one."""
    parts, found = name.split("."), importlib.import_module("hierax")
    for number, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:number]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


def test_a_name_that_does_not_exist_is_found() -> None:
    assert exists("hierax.HieraModel.from_pretrained")
    assert exists("hierax.viz.heat_overlay")
    assert not exists("hierax.layout")


def test_the_settings_that_may_change_when_a_run_is_resumed() -> None:
    found = re.search(r"that do not change what is learned:\s+((?:`\w+`[,.]\s+)+)", text("docs/pretrain.md"))
    assert found
    assert set(re.findall(r"`(\w+)`", found[1])) == RESUMABLE_SETTINGS


def test_the_learning_rates_of_the_recipes() -> None:
    for names, *_, rates in rows("docs/recipes.md", "| recipes |"):
        made = [RECIPES[name]() for span in re.findall(r"`([^`]+)`", names) for name in _expanded(span)]
        stated = {float(rate) for rate in re.findall(r"\d[\d.]*(?:e-\d+)?", rates)}
        assert {recipe.lr for recipe in made} == stated, names


def test_how_a_recipe_is_chosen() -> None:
    table = {name.strip("` "): cells for name, *cells in rows("docs/recipes.md", "| | CPU |")}
    modes = {"epochs of `pretrain": "pretrain", "epochs of `finetune": "finetune"}
    modes["epochs of `finetune --task segment"] = "segment"
    for row, mode in modes.items():
        for place, cell in zip(("cpu", "gpu"), table[row], strict=True):
            epochs = MODES[mode].epochs[place]
            assert cell == f"{epochs.samples:,} / images, {epochs.least} to {epochs.most}", row
    for row, found in {"batch": ("pretrain", "finetune"), "batch of `finetune --task segment": ("segment",)}.items():
        for place, cell in zip(("cpu", "gpu"), table[row], strict=True):
            most = {RECIPES[MODES[mode].recipes[place]]().batch_size for mode in found}
            least = {largest_batch(1, size) for size in most}
            assert re.findall(r"(\d+) to (\d+)$", cell) == [(str(*least), str(*most))], row


def test_the_precision_of_detection() -> None:
    assert {build().precision for build in DETECTION.values()} == {"fp32"}
    assert "| `finetune --task detect`, `--task instances` | fp32, or bf16 with `precision=bf16`." in text(
        "docs/gpus.md"
    )


@pytest.mark.parametrize("name", ["features", "explain"])
def test_a_function_that_writes_files_says_when(name: str, tmp_path: Path) -> None:
    """It returns an iterator; a call alone writes nothing."""
    function = getattr(hierax, name)
    found = function([ROOT / "src/hierax/assets/cat.jpg"], tmp_path, model=HieraForImageClassification(image_config()))
    assert list(tmp_path.iterdir()) == []
    assert f"`list(hierax.{name}(…))` writes all files" in function.__doc__
    list(found)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".png"}


def arguments_of(function: Any) -> set[str]:
    """The arguments of a function whose docstring explains its arguments, and does not refer to another function."""
    if "other arguments" in (function.__doc__ or "") or "Args:" not in (function.__doc__ or ""):
        return set()
    return set(inspect.signature(function).parameters) - {"self", "cls"}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_docstring_that_explains_arguments_names_all_of_them(package: str) -> None:
    module, silent = importlib.import_module(package), []
    for name in module.__all__:
        value = getattr(module, name)
        members = vars(value).items() if inspect.isclass(value) else [(name, value)]
        public = [getattr(member, "__func__", member) for own, member in members if not own.startswith("_")]
        for function in filter(inspect.isfunction, public):
            named = set(re.findall(r"\w+", function.__doc__ or ""))
            silent += [f"{function.__qualname__}: {argument}" for argument in arguments_of(function) - named]
    assert silent == []


def test_packages_for_a_machine_without_a_network_include_hierax() -> None:
    """`pip download .` leaves out the folder itself; `pip wheel .` builds it."""
    page = text("docs/offline.md")
    collected = re.search(r"`pip wheel -w (\w+) \"\.(\[[\w,]+\])\"`", page)
    installed = re.search(r"`pip install --no-index --find-links (\w+) \"hierax(\[[\w,]+\])\"`", page)
    assert collected
    assert installed
    assert collected.groups() == installed.groups()
    assert "pip download" not in page


@pytest.mark.parametrize(("command", "row"), [(duplicates, Member), (outliers, Outlier), (search, Hit)])
def test_the_example_of_json_in_help_has_the_fields_of_a_row(command: Any, row: Any) -> None:
    found = re.search(r"\{\"id\".*?\}", command.EPILOG)
    assert found
    assert list(json.loads(found[0])) == [field.name for field in dataclasses.fields(row)]


def test_the_changelog_lists_all_commands() -> None:
    found = re.search(r"^- Commands: (.*?)\.$", text("CHANGELOG.md"), flags=re.MULTILINE | re.DOTALL)
    assert found
    assert re.findall(r"`(\w+)`", found[1]) == list(_parser()[1])


def test_private_modules_that_pages_use_are_named_on_the_page_on_stability() -> None:
    used = {
        module for path in PAGES for module in re.findall(r"^from (hierax[\w.]*) import", path.read_text("utf-8"), re.M)
    }
    private = {module for module in used if module not in PUBLIC and not module.startswith("hierax.integrations.")}
    sentence = text("docs/stability.md").partition("This includes three modules")[2].partition("\n\n")[0]
    assert private == set(re.findall(r"`(hierax[\w.]*)`", sentence))
    assert len(private) == 3
