"""The options of the commands: alike everywhere, and the arguments of the functions behind them."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hierax
import hierax.train
from hierax.checkpoint.opened import DIALECTS
from hierax.checkpoint.records import Task
from hierax.checkpoint.windowed import WINDOWS
from hierax.cli import _parser, finetune, stats
from hierax.collection.duplicates import Linkage
from hierax.collection.projection import Method
from hierax.demo.demo import demo
from hierax.diagnosis import diagnose
from hierax.engine.export.formats import FORMATS
from hierax.engine.export.layouts import LAYOUTS
from hierax.engine.hardware import PRECISIONS
from hierax.predict.explain import METHODS
from hierax.serve.app import create_app
from hierax.viz.reconstruction import Statistics

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "models": hierax.list_checkpoints,
    "classify": hierax.classify,
    "features": hierax.features,
    "explain": hierax.explain,
    "segment": hierax.segment,
    "reconstruct": hierax.reconstruct,
    "detect": hierax.detection.detect,
    "convert": hierax.convert,
    "embed": hierax.embed,
    "search": hierax.search,
    "duplicates": hierax.duplicates,
    "outliers": hierax.outliers,
    "map": hierax.write_map,
    "export": hierax.export,
    "bench": hierax.bench,
    "stats": hierax.stats,
    "pretrain": hierax.train.pretrain,
    "finetune": hierax.train.finetune,
    "evaluate": hierax.train.evaluate,
    "recipes": hierax.train.recipe,
    "doctor": diagnose,
    "serve": create_app,
}
"""The function behind each command."""
# Stated exceptions. Every table is reason: "command.option …"; a `*` is every command.
OTHER_NAMES = {
    "the functions also take an index": "*.collection=folder",
    "the folder may be several": "*.also=folder",
    "the field's short name for a number of neighbors": "outliers.neighbors=k",
    "the option is repeated": "embed.layer=layers explain.label=labels",
    "a collection has columns of its own": "embed.columns=list_columns",
    "the folder of a collection or an export is the second argument": "embed.output=out export.output=folder "
    "convert.output=target",
    "MODEL is also an option": "export.named=model",
    "of the file: None is any number": "export.batch_size=batch",
    "a dataset has a source": "stats.data=source",
    "settings of the recipe": "pretrain.weights=settings finetune.weights=settings pretrain.max_pixels=settings "
    "finetune.max_pixels=settings",
    "bench measures all combinations of several values": "bench.model=models bench.size=sizes "
    "bench.precision=precisions bench.backend=backends bench.batch_size=batches",
    "a switch turns off what is on": "bench.no_memory=memory convert.no_neck=neck",
    "fields of Limits": "serve.max_batch=limits serve.max_wait_ms=limits serve.queue=limits serve.deadline=limits "
    "serve.grace=limits serve.max_pixels=limits",
    "a server opens its collection itself": "serve.collection=collection",
    "the option is repeated, or names a file": "serve.allow_origin=allow_origins serve.api_key_file=api_key",
}
ONLY_OPTIONS = {
    "prints what the function returns": "*.json bench.markdown recipes.source classify.per_view",
    "writes what the function returns": "classify.output classify.overwrite segment.output segment.overwrite "
    "reconstruct.output reconstruct.overwrite "
    "demo.output demo.overwrite bench.output bench.plot bench.overwrite evaluate.confusion evaluate.overwrite "
    "detect.output detect.overwrite",
    "makes a page of what the function returns": "search.html search.overwrite search.fetch duplicates.html "
    "duplicates.overwrite outliers.html outliers.overwrite outliers.fetch outliers.max_pixels",
    "the command refuses; the function replaces, as save_pretrained does": "convert.overwrite",
    "the other value of an argument": "search.exact duplicates.exact export.dynamic_batch",
    "describes another run, or insists that there is one": "pretrain.config finetune.config pretrain.resume "
    "finetune.resume",
    "probe_features is a function of its own": "evaluate.probe evaluate.train",
    "evaluate_segmentation is a function of its own": "evaluate.classes evaluate.reduce_labels evaluate.colors",
    "segmentation_statistics is a function of its own": "stats.task stats.classes stats.reduce_labels stats.colors",
    "names one of the models of a run": "evaluate.weights",
    "the command opens the photos": "demo.max_pixels",
    "of the program around the application": "serve.host serve.port serve.workers serve.ray",
}
ONLY_ARGUMENTS = {
    "the command shows it": "*.progress *.on_progress embed.on_stop embed.on_wait duplicates.on_unreadable demo.tell",
    "the command always shows the log": "pretrain.quiet finetune.quiet",
    "the variable HIERAX_CACHE": "bench.cache_dir",
    "follows from --batch-size": "embed.block_size",
    "for programs": "serve.engine embed.on_table models.variant models.dialect demo.seed",
}
OTHER_DEFAULTS = {
    "an existing collection's value comes first": "embed.model embed.layer embed.batch_size",
    "a switch that is not given is None": "search.approximate duplicates.approximate",
    "a switch turns off what is on": "bench.no_memory convert.no_neck",
    "None is auto; scratch is None": "pretrain.source finetune.source",
    "None is the task of the recipe": "finetune.task",
    "see settings": "pretrain.weights finetune.weights pretrain.max_pixels finetune.max_pixels",
    "see Limits": "serve.max_batch serve.max_wait_ms serve.queue serve.deadline serve.grace serve.max_pixels",
    "argparse has None for an empty list": "pretrain.settings finetune.settings",
}
CHOICES: dict[str, Iterable[str]] = {
    "export.format": FORMATS,
    "export.layout": LAYOUTS,
    "export.precision": PRECISIONS,
    "convert.to": DIALECTS,
    "convert.pos_embed": ("abswin",),
    "convert.windows": WINDOWS,
    "duplicates.linkage": typing.get_args(Linkage),
    "explain.method": METHODS,
    "map.method": typing.get_args(Method),
    "reconstruct.statistics": typing.get_args(Statistics),
    "models.task": typing.get_args(Task),
    "pretrain.parallel": ("ddp", "fsdp"),
    "finetune.parallel": ("ddp", "fsdp"),
    "pretrain.weights": ("best", "last"),
    "finetune.weights": ("best", "last"),
    "finetune.task": finetune.TASKS,
    "stats.task": stats.TASKS,
    "evaluate.weights": ("best", "last"),
    "evaluate.probe": ("linear", "knn"),
}
"""What the function takes."""


def entries(table: Mapping[str, str]) -> list[str]:
    return [entry for listed in table.values() for entry in listed.split()]


_, COMMANDS = _parser()
OPTIONS = [
    (command, action)
    for command, parser in COMMANDS.items()
    for action in parser._actions
    if action.dest not in ("help", "debug") and action.help != argparse.SUPPRESS
]
IDS = [f"{command}.{action.dest}" for command, action in OPTIONS]
NAMES = dict(entry.split("=") for entry in entries(OTHER_NAMES))


def is_listed(command: str, name: str, table: Mapping[str, str]) -> bool:
    return bool({f"{command}.{name}", f"*.{name}"} & set(entries(table)))


def argument_of(command: str, action: argparse.Action) -> inspect.Parameter | None:
    """The argument that an option sets, if it sets one."""
    own = NAMES.get(f"{command}.{action.dest}", NAMES.get(f"*.{action.dest}", action.dest))
    return inspect.signature(FUNCTIONS[command]).parameters.get(own)


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(("command", "action"), OPTIONS, ids=IDS)
def test_an_option_sets_an_argument_of_the_function_or_is_listed(command: str, action: argparse.Action) -> None:
    assert (argument_of(command, action) is None) == is_listed(command, action.dest, ONLY_OPTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_of_the_function_has_an_option_or_is_listed(command: str) -> None:
    own = {a.name for name, action in OPTIONS if name == command and (a := argument_of(command, action)) is not None}
    for name in inspect.signature(FUNCTIONS[command]).parameters:
        assert (name not in own) == is_listed(command, name, ONLY_ARGUMENTS), name


@pytest.mark.parametrize(("command", "action"), OPTIONS, ids=IDS)
def test_an_option_has_the_default_of_its_argument_or_is_listed(command: str, action: argparse.Action) -> None:
    argument = argument_of(command, action)
    if argument is not None and argument.default is not argument.empty and argument.name != "folder":
        alike = plain(action.default) == plain(argument.default)
        assert alike != is_listed(command, action.dest, OTHER_DEFAULTS)


def test_the_choices_of_an_option_are_those_of_the_function() -> None:
    offered = {f"{c}.{action.dest}": set(action.choices) for c, action in OPTIONS if action.choices}
    assert offered == {name: set(choices) for name, choices in CHOICES.items()}


def test_every_stated_exception_is_of_an_option_or_argument_that_is_there() -> None:
    options = {*IDS, *(f"*.{action.dest}" for _, action in OPTIONS)}
    arguments = {f"{c}.{a}" for c, function in FUNCTIONS.items() for a in inspect.signature(function).parameters}
    arguments |= {f"*.{name.partition('.')[2]}" for name in arguments}
    assert {*NAMES, *entries(ONLY_OPTIONS), *entries(OTHER_DEFAULTS)} <= options
    assert set(entries(ONLY_ARGUMENTS)) <= arguments


# -- one way everywhere -----------------------------------------------------------------------------------------------

SENTENCES = {  # of options that mean the same in every command that has them; a default in brackets may differ
    "--overwrite": 1,
    "--device": 1,
    "--precision": 3,  # of an engine; of an export; of several engines
    "--backend": 1,
    "--batch-size": 1,
    "--max-pixels": 1,
    "--json": 2,  # one object, or one in each line
    "--views": 1,
    "--size": 3,  # embed takes squares, segment the shorter side
    "--workers": 2,  # serve has processes with engines
    "--threads": 1,
    "--columns": 2,  # lists without labels
    "--calibration": 1,
    "--model": 6,  # bench takes variants; bench and explain no exports; training starts from it; export has MODEL
}


@pytest.mark.parametrize("option", SENTENCES)
def test_an_option_has_one_help_sentence(option: str) -> None:
    helps = {re.split(r" \(default|; several", a.help or "")[0] for _, a in OPTIONS if option in a.option_strings}
    assert len(helps) <= SENTENCES[option], helps


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_writes_is_named_by_o_and_never_replaced_unless_asked(command: str) -> None:
    """`embed` never replaces a collection: it adds to it."""
    options = {option for name, action in OPTIONS if name == command for option in action.option_strings}
    assert ("-o" in options) == ("--output" in options)
    writes = options & {"--output", "--html", "--confusion", "--plot"}
    assert ("--overwrite" in options) == (bool(writes) and command != "embed")


def test_every_command_that_prints_a_result_prints_it_as_json() -> None:
    """The others write a file, a folder or a run, and print its name."""
    without = {c for c, parser in COMMANDS.items() if "--json" not in parser._option_string_actions}
    assert without == {"demo", "reconstruct", "map", "pretrain", "finetune", "serve"}


# -- former names, and the new --json ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["export hierax/femto -o x --format pt2 --batch 4", "bench --batch 4 --force"])
def test_former_names_of_options_are_read(given: str) -> None:
    command, *rest = given.split()
    found = COMMANDS[command].parse_args(rest).batch_size
    assert plain(found) in (4, (4,))


def test_convert_takes_its_output_in_both_ways_and_prints_json(run: Run, classifier_folder: str) -> None:
    code, out, _ = run("convert", classifier_folder, "-o", "new", "--to", "timm", "--json")
    found = json.loads(out)
    assert (code, found["output"], found["format"]) == (0, "new", "timm")
    assert sorted(found["files"]) == sorted(str(path) for path in Path("new").iterdir())
    assert run("convert", classifier_folder, "former", "--to", "timm")[0] == 0
    _, _, err = run("convert", classifier_folder, "former", "-o", "new", "--to", "timm")
    assert "OUT is given twice: former and --output new" in err
    _, _, err = run("convert", classifier_folder, "--to", "timm")
    assert "-o OUT is missing" in err


def test_features_prints_an_object_for_each_file(run: Run, classifier_folder: str) -> None:
    code, out, _ = run("features", "a", "notes.txt", "-o", "maps", "--model", classifier_folder, "--json")
    bad, good = sorted((json.loads(line) for line in out.splitlines()), key=lambda found: "arrays" in found)
    assert (code, bad["path"]) == (3, "notes.txt")
    assert Path(good["arrays"]).is_file()
    assert Path(good["image"]).is_file()


def test_recipes_prints_all_settings_of_all_recipes(run: Run) -> None:
    found = json.loads(run("recipes", "--json")[1])
    assert found.keys() == hierax.train.RECIPES.keys() | hierax.detection.recipes.RECIPES.keys()
    assert "--source needs the NAME of a recipe" in run("recipes", "--source")[2]
