"""Documents: every command and program of the guides runs at toy size, and what documents name exists.

A guide is run from its first line to its last in a folder of its own, as a reader would. Commands stand as they are;
what is small are the architectures (`VARIANTS`), the data, the folders named like the Hub's ids, and of a recipe the
epochs, the batch and the processes that decode. In `console` blocks what is printed is compared as well: numbers may
differ, and `…` stands for anything.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from auto_classes import put_back
from detection_sets import write_coco
from hierax.cli import main
from hierax.detection import DetectionRecipe
from hierax.model.config import HieraConfig, variant_config
from hierax.model.variants import VARIANTS
from hierax.processing import KINETICS
from hierax.train import RECIPES, Recipe, recipe
from videos import action_set, video

ROOT = Path(__file__).parent.parent
GUIDES = (
    "pretrain",
    "finetune",
    "features",
    "recipes",
    "engine",
    "deploy",
    "embed",
    "sizes",
    "video",
    "checkpoints",
    "transformers",
    "integrations",
    "dense",
    "detection",
    "segmentation",
    "explain",
    "concepts",
    "label",
    "models",
    "gpus",
    "machines",
    "offline",
    "channels",
    "README",
)
DOCUMENTS = (*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")))
LONG = ("deploy", "finetune", "pretrain", "engine", "recipes", "segmentation")
"""Guides that take minutes: all of them run among the slow tests."""
_ARGUMENTS = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a document: its language, text, and place."""

    kind: str
    text: str
    place: str


def text_of(guide: str) -> str:
    """Of the README the part on training; tests/test_readme.py runs the others."""
    if guide == "README":
        whole = (ROOT / "README.md").read_text(encoding="utf-8")
        return whole[whole.index("Train a classifier") : whole.index("## Coming from")]
    return (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8")


def blocks(guide: str) -> list[Block]:
    text = text_of(guide)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], f"docs/{guide}.md:{text.count(chr(10), 0, m.start()) + 2}") for m in found]


def commands(block: Block) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a `sh` or `console` block, as words, and the lines that it prints (none in `sh`)."""
    if block.kind == "sh":
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words, []
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *printed = part.splitlines()
        yield shlex.split(command), printed


def prose(text: str) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`\n]+)`", prose(text))


# -- a small world ---------------------------------------------------------------------------------------------------


def _picture(path: Path, random: np.random.Generator, *, low: int = 0, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(low, low + 128, (70, 90, channels), dtype=np.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path)


def _member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def make_data(place: Path) -> None:
    """Everything that the guides call DATA: at least as many samples as a toy batch."""
    random = np.random.default_rng(0)
    _picture(place / "photo.jpg", random)
    for number in range(10):
        _picture(place / "photos" / f"{number}.jpg", random)
        _picture(place / "gray" / f"{number}.png", random, channels=1)
        _picture(place / "rgba" / f"{number}.png", random, channels=4)
    for number in range(4):
        _picture(place / "albums" / f"{number % 2}" / f"{number}.jpg", random)
        _picture(place / "mixed" / ("inner" if number > 1 else "") / f"{number}.jpg", random)
    for split, each in (("train", 6), ("val", 2)):
        for number, (low, name) in itertools.product(range(each), ((0, "cat"), (127, "dog"))):
            _picture(place / "labeled" / split / name / f"{number}.png", random, low=low)
    photos = [(place / "photos" / f"{number}.jpg").read_bytes() for number in range(10)]
    (place / "shards").mkdir()
    for number in range(2):
        with tarfile.open(place / "shards" / f"{number:03}.tar", "w") as shard:
            for index in range(4):
                _member(shard, f"{index}.jpg", photos[4 * number + index])
                _member(shard, f"{index}.cls", str(index % 2).encode())
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": photo, "path": None} for photo in photos]
    parquet.write_table(pyarrow.table({"image": images, "label": [n % 2 for n in range(10)]}), place / "table.parquet")
    for name, count, shape in (("signals", 8, (2, 512)), ("volumes", 6, (1, 32, 64, 64)), ("clips", 6, (3, 4, 96, 96))):
        np.save(place / f"{name}.npy", random.normal(size=(count, *shape)).astype(np.float32))
    np.save(place / "clips.labels.npy", np.arange(6) % 2)
    for part in ("train", "val"):
        action_set(place / "actions" / part, each=1, seed=0, frames=8)
    (place / "films").mkdir()
    for film in (place / "clip.mp4", place / "films" / "a.mp4"):
        film.write_bytes(video(70, codec="mpeg4"))
    (place / "photos.csv").write_text("path,label\nlabeled/train/cat/0.png,cat\nphotos/0.jpg,dog\n")
    (place / "parts.csv").write_text("path,start,end,label\nclip.mp4,0,1,left\nclip.mp4,1,2,right\n")
    for number in range(6):
        part = f"{'train' if number < 4 else 'val'}/{number}"
        _picture(place / "scenes" / "images" / f"{part}.jpg", random)
        mask = place / "scenes" / "masks" / f"{part}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(random.integers(0, 3, (7, 9)), np.ones((10, 10))).astype(np.uint8)).save(mask)
    (place / "scenes" / "classes.txt").write_text("background\ncat\ndog\n")

    for name in ("boxes", "masks"):
        write_coco(place / name, train=6, val=4)


def make_models(place: Path) -> None:
    """Folders named like the Hub's ids."""
    labels = {0: "cat", 1: "tench", 2: "dog"}
    for name, variant, cls, changes in (
        ("facebook/hiera-tiny-224-in1k-hf", "hiera_tiny_224", hierax.HieraForImageClassification, {"id2label": labels}),
        ("facebook/hiera-tiny-224-hf", "hiera_tiny_224", hierax.HieraModel, {}),
        ("facebook/hiera-tiny-224-mae-hf", "mae_hiera_tiny_224", hierax.HieraForPreTraining, {}),
        ("timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k", "hiera_small_abswin_256",
         hierax.HieraForImageClassification, {}),
        ("facebook/hiera_base_16x224.mae_k400_ft_k400", "hiera_base_16x224", hierax.HieraForVideoClassification, {}),
        ("facebook/hiera_base_16x224.mae_k400", "mae_hiera_base_16x224", hierax.HieraForPreTraining,
         {"mask_ratio": 0.75}),
    ):  # fmt: skip
        torch.manual_seed(0)
        model: Any = cls(variant_config(name=variant, **changes))
        record = KINETICS.replace(num_frames=4) if model.config.is_video else hierax.Preprocessing()
        model.preprocessing = record.replace(size=73, crop_size=64)
        model.save_pretrained(place / name)
    trunk = hierax.HieraBackbone(variant_config("sam2_hiera_tiny", fpn_hidden_size=16))
    trunk.preprocessing = hierax.Preprocessing.for_model(trunk.config)
    trunk.save_pretrained(place / "facebook/sam2.1-hiera-tiny")
    weights = hierax.create_model("hiera_tiny_224").state_dict()
    torch.save({"model": weights, "model_ema": weights, "epoch": 3}, place / "checkpoint.pth")


def _small(name: str, fields: Any) -> dict[str, Any]:
    toy = {
        "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "decoder_hidden_size": 16,
        "decoder_depth": 1, "decoder_num_heads": 2, "image_size": (4, 64, 64) if "16x224" in name else (64, 64),
    }  # fmt: skip
    return {**fields, **toy, **({"global_blocks": ()} if "global_blocks" in fields else {})}


def _shrunk(chosen: Recipe) -> Recipe:
    """A recipe for the small world, after a check that the real one is a model that can be built."""
    size = {} if chosen.image_size is None else {"image_size": chosen.image_size}
    HieraConfig(**{**VARIANTS[chosen.model], **chosen.overrides, **size})
    fixed = _small(chosen.model, {})
    overrides = {name: value for name, value in chosen.overrides.items() if name not in fixed}
    return chosen.replace(
        overrides=overrides,
        epochs=1,
        batch_size=4,
        device_batch_size=None if chosen.device_batch_size is None else 2,
        workers=0,
        compile=False,
    )


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Architectures, runs and the Hub at toy size, for this process."""
    import datasets

    import hierax.model.config
    import hierax.train

    patch.setattr(hierax.model.config, "VARIANTS", {name: _small(name, fields) for name, fields in VARIANTS.items()})
    patch.setattr(torch.cuda, "is_available", lambda: False)

    def toy(function: Callable[..., Path]) -> Callable[..., Path]:
        def run(data: Any, *, recipe: Any = None, settings: Sequence[str] = (), **options: Any) -> Path:
            if recipe is None:  # that which fits is chosen, with femto as it is
                return function(data, settings=[*settings, "epochs=1", "batch_size=4", "workers=0"], **options)
            chosen = recipe if isinstance(recipe, Recipe) else RECIPES[recipe]()
            return function(data, recipe=_shrunk(chosen.overridden(settings)), **options)

        return run

    patch.setattr(hierax.train, "pretrain", toy(hierax.train.pretrain))
    patch.setattr(hierax.train, "finetune", toy(hierax.train.finetune))
    make_small_detectors(patch)
    load = datasets.load_dataset

    def load_dataset(path: str, *arguments: Any, **options: Any) -> Any:
        if path == "parquet":
            return load(path, *arguments, **options)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", path), path
        pictures = [Image.new("RGB", (40, 40), (20 * n, 0, 0)) for n in range(6)]
        whole = datasets.Dataset.from_dict({"img": pictures, "label": [0, 1, 0, 1, 0, 1]})
        whole = whole.cast_column("img", datasets.Image())
        return datasets.DatasetDict({"train": whole, "test": whole})

    patch.setattr(datasets, "load_dataset", load_dataset)


def make_small_detectors(patch: pytest.MonkeyPatch) -> None:
    """Runs of detection get a small head, small images and two steps; the settings of the guide are checked."""
    from hierax.detection import run

    function = run.finetune_detection

    def finetune_detection(data: Any, *, settings: Sequence[str], **options: Any) -> Path:
        return function(data, settings=[*settings, *SMALL_DETECTOR], **options)

    patch.setattr(run, "finetune_detection", finetune_detection)


SMALL_DETECTOR = (
    "image_size=64", "width=32", "heads=2", "queries=8", "feedforward=16", "decoder_layers=2", "batch_size=2",
    "encoder_layers=1", "points=64", "steps=2",
)  # fmt: skip


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all data and models of the guides."""
    place = tmp_path_factory.mktemp("guides") / "template"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        make_data(place)
        make_models(place)
    return place


@pytest.fixture
def small_world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to be in."""
    place = tmp_path / "reader"
    shutil.copytree(template, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HIERAX_DEBUG", raising=False)
    make_small(monkeypatch)
    return place


# -- running a guide -------------------------------------------------------------------------------------------------


def run(words: list[str]) -> tuple[int, list[str]]:
    """Exit code of a command, and the lines that it printed, those on stderr first."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, [*err.getvalue().splitlines(), *out.getvalue().splitlines()]


def _pattern(line: str) -> str:
    """A printed line as a regular expression: any numbers, any spaces, `…` anything; a GPU is as good as a CPU."""
    parts = [re.escape(_plain(part)) for part in line.replace("cuda:0", "cpu").split("…")]
    return ".*".join(parts)


def _plain(text: str) -> str:
    text = re.sub(r"(?<= )-(?= )", "0 %", text)
    text = re.sub(r"\b(sample|image|step|epoch|class)(es|s)?\b", r"\1", text)  # the tests have fewer of them
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,]*(\.\d+)?(e-?\d+)?", "0", text))


def check_printed(expected: list[str], actual: list[str], *, place: str) -> None:
    """That the expected lines were printed in this order, maybe among others."""
    lines = iter(_plain(line) for line in actual)
    for line in expected:
        assert any(re.fullmatch(_pattern(line), other) for other in lines), f"{place}: {line!r} is not in {actual}"


def check_torchrun(words: list[str]) -> Recipe:
    """What a line for several processes would run: arguments that both parsers take, a batch that can be shared."""
    from torch.distributed.run import get_args_parser

    from hierax.cli import _parser
    from hierax.cli.parsing import parse
    from hierax.cli.train import read_request

    arguments = get_args_parser().parse_args(words[1:])
    assert (arguments.module, arguments.training_script) == (True, "hierax")
    wanted = read_request(parse(*_parser(), arguments.training_script_args))
    assert not isinstance(wanted.recipe, Recipe)
    chosen = RECIPES[wanted.recipe or "mae_tiny_small_data"]().overridden(wanted.settings)
    ranks = int(arguments.nnodes.split(":")[-1]) * int(arguments.nproc_per_node)
    assert ranks > 1
    assert chosen.batch_size % ranks == 0
    _shrunk(chosen)
    return chosen


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore::UserWarning:lightning")  # of Lightning
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT
@pytest.mark.parametrize("guide", [pytest.param(g, marks=pytest.mark.slow if g in LONG else ()) for g in GUIDES])
def test_every_command_and_program_of_a_guide_runs(guide: str, small_world: Path) -> None:
    """An export to ONNX takes seconds even of a small model, and is done to another format where that is as good."""
    with put_back():
        run_guide(
            guide,
            instead={} if guide in ("engine", "deploy") else {"onnx": "pt2" if guide == "finetune" else "openvino"},
        )


@pytest.mark.parametrize("guide", LONG)
def test_commands_and_programs_of_a_long_guide_are_understood(guide: str) -> None:
    """Commands have arguments that exist; programs can be compiled, and what they import exists."""
    from hierax.cli import _parser
    from hierax.cli.parsing import parse

    understood = 0
    for block in blocks(guide):
        if block.kind == "python":
            program = ast.parse(block.text, block.place)
            imports = [node for node in ast.walk(program) if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec(compile(ast.Module(imports, []), block.place, "exec"), {})  # pyright: ignore[reportArgumentType]
            understood += 1
        elif block.kind in ("sh", "console"):
            for words, printed in commands(block):
                if words[0] == "hierax" and not any(line.startswith("hierax: ") for line in printed[:1]):
                    assert parse(*_parser(), words[1:]).run, block.place
                    understood += 1
    assert understood > 3


def run_guide(guide: str, *, instead: dict[str, str]) -> None:
    """Runs all blocks of a guide, with some words replaced."""
    if guide in ("finetune", "features"):  # they go on where the first guide ends
        assert run(["pretrain", "photos", "-o", "runs/mae"])[0] == 0
    if guide == "integrations":  # it uses what the guide of segmentation trains
        assert run(["finetune", "scenes", "-o", "runs/segment", "--task", "segment"])[0] == 0
    for block in blocks(guide):
        if block.kind == "python":
            if re.search(r"^import (timm|segmentation_models_pytorch)", block.text, flags=re.MULTILINE):
                continue  # test_integration_timm.py runs it, where timm is installed
            torch.manual_seed(0)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
            continue
        if block.kind in ("py", "js", "html"):  # for other programs: tests/test_deployments.py runs them there
            continue
        assert block.kind in ("sh", "console"), f"{block.place}: a block of {block.kind or 'no language'}"
        for words, printed in commands(block):
            if words[0] == "torchrun":
                check_torchrun(words)
                continue
            assert words[0] == "hierax", f"{block.place}: what is {words[0]}?"
            code, lines = run([instead.get(word, word) for word in words[1:]])
            failure = len(printed) == 1 and printed[0].startswith("hierax: ")
            assert code == (2 if failure else 0), f"{block.place}: {shlex.join(words)}: {code}: {lines}"
            check_printed(printed, lines, place=block.place)


def _torchruns() -> list[Any]:
    found = [
        words for guide in GUIDES for block in blocks(guide) if block.kind == "sh" for words, _ in commands(block)
        if words[0] == "torchrun"
    ]  # fmt: skip
    return [pytest.param(words, id=str(number)) for number, words in enumerate(found)]


@pytest.mark.slow
@pytest.mark.parametrize("words", _torchruns())
def test_a_line_for_several_processes_runs_on_two(words: list[str], small_world: Path) -> None:
    script = small_world / "two.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import pytest, test_docs\n"
        "test_docs.make_small(pytest.MonkeyPatch())\n"
        "sys.exit(test_docs.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, *_ARGUMENTS, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)]
    done = subprocess.run(
        [*command, *words[words.index("hierax") + 1 :]], capture_output=True, text=True, timeout=600, cwd=small_world
    )
    assert done.returncode == 0, done.stderr
    out = Path(words[words.index("-o") + 1])
    assert json.loads((out / "run.json").read_text())["environment"]["ranks"] == 2


# -- what documents say ----------------------------------------------------------------------------------------------


def _parameters() -> set[str]:
    """Names of fields and arguments that documents may give a value to."""
    fields = {
        f.name for cls in (Recipe, DetectionRecipe, HieraConfig, hierax.Preprocessing) for f in dataclasses.fields(cls)
    }
    functions = (
        hierax.Engine, hierax.load, hierax.HieraModel.from_pretrained, hierax.HieraBackbone, hierax.Engine.warm_up,
        hierax.HieraForPreTraining.forward, hierax.HieraModel.forward, hierax.inflate,
        hierax.AutoImageProcessor.from_pretrained,
    )  # fmt: skip
    return fields.union({"use_fast"}, *(inspect.signature(function).parameters for function in functions))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_is_one(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if document.name == "log.md":
        return
    known = _parameters() | {"key", "path"}  # key=value; --columns path=NAME
    for span in spans(text):
        for word in () if "(" in span else span.split():  # of a call, other tests run the program
            found = re.fullmatch(r"'?([a-z][a-z_]*)=([^=].*)", word)
            assert not found or found[1] in known, f"{document.name}: {span}"


@pytest.mark.parametrize("guide", ["pretrain", "finetune", "features", "recipes"])
def test_every_value_of_a_setting_is_taken(guide: str) -> None:
    """Those in the text; those in commands are taken when they run."""
    whole = [span for span in spans(text_of(guide)) if re.fullmatch(r"'?[a-z_]+=[^\s\"…(]+( [a-z_]+=\S+)*", span)]
    assert whole or guide == "features"
    for word in (word for span in whole for word in shlex.split(span) if word != "key=value"):
        task = "finetune_tiny_small_data" if guide == "finetune" else "mae_tiny_small_data"
        chosen = recipe(task).overridden([word])
        variant_config(chosen.model, **chosen.overrides)


def _expanded(pattern: str) -> Iterator[str]:
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", pattern)]
    return map("".join, itertools.product(*parts))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_recipe_and_variant_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    names = [word for span in spans(text) for word in span.split() if re.match(r"(mae|finetune|in1k|k400|ssv2)_", word)]
    names += re.findall(r"(?:--recipe |recipe\(\")(\w+)", text)
    for name in itertools.chain.from_iterable(map(_expanded, names)):
        assert name in RECIPES or name in VARIANTS, f"{document.name}: {name}"


def test_the_guide_to_recipes_names_every_recipe() -> None:
    named = {name for span in spans(text_of("recipes")) for name in _expanded(span)}
    assert set(RECIPES) <= named


def test_packages_for_a_machine_without_internet_contain_hierax_itself() -> None:
    """For a project that is a folder, `pip download` saves only its dependencies; `pip wheel` saves it too."""
    assert re.search(r"`pip wheel -w wheels \"?\.", text_of("offline"))
    assert not any("pip download" in path.read_text(encoding="utf-8") for path in DOCUMENTS)


def _rows(guide: str, first: str) -> list[list[str]]:
    """Cells of the table whose heading begins with this cell."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text_of(guide), flags=re.MULTILINE)
    table = next(t for t in tables if t.startswith(f"| {first} |"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_message_in_a_table_is_one_of_the_program() -> None:
    """The longest piece of each that has no number in it stands in the sources."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for message, _ in _rows("pretrain", "message"):
        pieces = re.split(r"\d+|…|: ", message.strip("`"))
        assert max(pieces, key=len).strip() in source, message


def test_the_table_of_steps_is_what_its_program_prints() -> None:
    program = next(block for block in blocks("recipes") if "steps per epoch" in block.text)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program.text, program.place, "exec"), {})
    printed = [re.findall(r"[\d.,]+e-\d+|\d[\d,]*\d", line)[2:] for line in out.getvalue().splitlines()]
    rates = [[f"{float(rate):.2e}", *steps] for rate, *steps in printed]
    stated = [[f"{float(row[2]):.2e}", *row[3:]] for row in _rows("recipes", "samples")]
    assert rates == stated


def test_the_table_of_augmentations_holds_the_recipes_values() -> None:
    recipes = (recipe("finetune_tiny_small_data"), recipe("in1k_base_from_400"))
    for names, *cells, _ in _rows("finetune", "augmentation"):
        for chosen, cell in zip(recipes, cells, strict=True):
            values = [getattr(chosen, name) for name in re.findall(r"`(\w+)`", names)]
            flat = itertools.chain.from_iterable(v if isinstance(v, tuple) else (v,) for v in values)
            stated = [json.loads(part) for part in cell.split(",")]
            assert list(flat) == stated, names


def test_the_sizes_of_recipes_are_those_of_the_table() -> None:
    for names, _, epochs, batch, _ in _rows("recipes", "recipes"):
        made = [RECIPES[name]() for span in re.findall(r"`([^`]+)`", names) for name in _expanded(span)]
        allowed = [int(number) for number in re.findall(r"\d+", epochs)] or [800, 1600, 3200]
        if "to" in epochs:
            assert (min(r.epochs for r in made), max(r.epochs for r in made)) == tuple(allowed)
        else:
            assert {r.epochs for r in made} == set(allowed)
        assert {r.batch_size for r in made} == {int(number) for number in batch.split(",")}
