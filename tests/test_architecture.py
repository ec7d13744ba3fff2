"""The rules of the house that can be read off the source: who imports whom, names, lengths."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hierax

PACKAGE = Path(hierax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (  # a room imports only from rooms below it
    {
        "lazy",
        "advice",
        "arguments",
        "home",
        "notices",
        "memory",
        "telemetry",
        "transformers_arguments",
        "extras",
        "devices",
    },
    {"reprs"},
    {"atomic", "digests", "principal", "sockets", "streams", "stopping", "locking"},
    {"console", "folders", "together"},
    {"processing"},
    {"model", "data"},
    {"checkpoint", "collection", "viz"},
    {"engine", "integrations"},
    {"predict", "diagnosis"},
    {"embedding", "benchmark", "demo"},
    {"serve"},
    {"train"},
    {"detection"},
    {"cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SEPARATE = ({"train", "engine"}, {"train", "embedding"}, {"train", "serve"}, {"serve", "data"})
"""Rooms that never import each other: a checkpoint folder is the only bridge."""
UPWARD = {("model", "checkpoint"), ("processing", "checkpoint")}
"""Who imports from a room above, inside functions: `from_pretrained`, `save_pretrained` and their like."""
ALONE = {"__init__", "__main__"}

# functions of more than 60 lines, each with the reason why it is one
LONG: dict[str, str] = {}

# every use of hasattr, with its reason
HASATTR: dict[str, str] = {
    "cli/__init__.py:main": "SIGPIPE is missing on Windows",
}


def name_of(file: Path) -> str:
    """`atomic.py` -> "atomic", `checkpoint/load.py` -> "checkpoint.load", `cli/__init__.py` -> "cli"."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_in(nodes: list[ast.stmt], file: Path) -> Iterator[str]:
    """Full names of the modules that these statements import, without those for type checkers alone."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            base = node.module or ""
            yield from (f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names)
        elif is_type_checking(node):
            continue
        else:
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from imports_in(getattr(node, field, []), file)


def is_module(name: str) -> bool:
    parts = name.split(".")
    path = PACKAGE.joinpath(*parts[1:])
    return parts[0] == "hierax" and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def at_import(file: Path) -> set[str]:
    """What importing the file imports: its statements outside of functions."""
    outside = [n for n in tree(file).body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    return set(imports_in(outside, file))


def anywhere(file: Path) -> set[str]:
    """What the file imports, in functions too."""
    return set(imports_in(tree(file).body, file))


def rooms(names: set[str]) -> set[str]:
    """The rooms of hierax among module names: "hierax.checkpoint.load" is in "checkpoint"."""
    return {name.split(".")[1] for name in names if name.startswith("hierax.")}


def functions(file: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{file.relative_to(PACKAGE).as_posix()}:{node.name}", node


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_rooms_below_it(file: Path) -> None:
    room = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if room in ALONE:
        return
    for other in rooms(at_import(file)) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} imports {other}"
    for other in rooms(anywhere(file)) - {room}:
        assert FLOOR[other] < FLOOR[room] or (room, other) in UPWARD, f"{room} imports {other}"
        assert {room, other} not in SEPARATE, f"{room} imports {other}"


def test_every_room_has_a_floor() -> None:
    here = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES}
    assert here - ALONE == FLOOR.keys()


def test_the_functions_that_reach_for_files_are_the_known_ones() -> None:
    reaching = {
        place
        for room in ("model", "processing")
        for file in (PACKAGE / room).rglob("*.py")
        for place, node in functions(file)
        if "checkpoint" in rooms(set(imports_in(node.body, PACKAGE)))
    }
    assert reaching == {
        "model/config.py:from_pretrained",
        "model/config.py:save_pretrained",
        "model/inflate.py:_report",
        "model/inflate.py:inflate",
        "model/pretrained.py:from_pretrained",
        "model/pretrained.py:push_to_hub",
        "model/pretrained.py:save_pretrained",
        "processing/auto.py:from_pretrained",
        "processing/image.py:from_pretrained",
        "processing/video.py:from_pretrained",
    }


ORDER = {  # module of `model`: what of it that may import
    "variants": set(),
    "validation": {"variants"},
    "config": {"variants", "validation"},
    "plan": {"config"},
    "outputs": set(),
    "losses": {"config"},
    "observed": set(),
    "gradients": {"observed"},
    "tokens": {"config", "gradients"},
    "summary": {"config", "variants"},
    "pretrained": {"config", "summary"},
    "positions": {"config", "tokens", "observed"},
    "products": {"observed"},
    "layers": {"config", "positions", "products"},
    "windows": {"config", "plan", "tokens"},
    "blocks": {"config", "plan", "tokens", "windows", "layers", "observed", "gradients"},
    "encoder": {"blocks", "config", "plan", "tokens", "windows", "positions", "layers", "pretrained"},
    "mae": {"blocks", "config", "plan", "tokens", "positions", "layers", "encoder"},
    "class_map": set(),
    "pyramid": {"config", "layers"},
    "task": {"config", "encoder", "layers", "mae", "outputs", "pretrained"},
    "tasks": {"config", "tokens", "encoder", "layers", "mae", "outputs", "pretrained", "losses", "task", "pyramid"},
    "segmentation": {"config", "encoder", "layers", "losses", "outputs", "pretrained", "task"},
    "registry": {"config", "encoder", "outputs", "pretrained", "tasks", "segmentation"},
    "inflate": {"config", "positions", "encoder", "tasks", "pretrained"},
}


@pytest.mark.parametrize("name", ORDER)
def test_data_flows_one_way_through_the_model(name: str) -> None:
    mine = {n.split(".")[2] for n in at_import(PACKAGE / "model" / f"{name}.py") if n.startswith("hierax.model.")}
    assert mine <= ORDER[name]


PACKAGES = ["hierax", *sorted({f"hierax.{file.parent.name}" for file in FILES if file.parent.parent == PACKAGE})]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_of_a_package_is_that_of_one_of_its_modules(package: str) -> None:
    """Importing the module would put it in the place of the name."""
    module = importlib.import_module(package)
    folder = Path(module.__file__ or "").parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not modules & set(getattr(module, "__all__", ())) - {"train", "data", "collection"}


def test_the_model_has_no_other_modules() -> None:
    assert {file.stem for file in (PACKAGE / "model").rglob("*.py")} == {*ORDER, "__init__"}


def test_the_configuration_imports_nothing_but_the_standard_library() -> None:
    files = ("model/config.py", "model/plan.py", "model/variants.py", "model/validation.py", "advice.py")
    ours = ("hierax.model.", "hierax.advice", "hierax.reprs.text")
    names = {n for file in files for n in at_import(PACKAGE / file) if not n.startswith(ours)}
    assert all(name.split(".")[0] in sys.stdlib_module_names for name in names)


@pytest.mark.parametrize("name", ORDER)
def test_the_model_needs_nothing_but_torch(name: str) -> None:
    others = {n.split(".")[0] for n in anywhere(PACKAGE / "model" / f"{name}.py")} - {"hierax", "torch"}
    assert others <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", ["duplicates", "outliers", "index", "drawing", "projection", "verify"])
def test_what_is_asked_of_a_collection_needs_no_torch(module: str) -> None:
    python(f"import sys, hierax.collection.{module}; assert 'torch' not in sys.modules")


def test_no_two_modules_import_each_other() -> None:
    """Also not around corners: the graph of imports has no circle."""
    known = {f"hierax.{name_of(file)}".rstrip("."): file for file in FILES}
    graph = {name: {n for n in at_import(file) if n in known and n != name} for name, file in known.items()}
    while ready := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in ready:
            del graph[name]
    assert graph == {}


def test_commands_import_models_only_when_they_run() -> None:
    for file in (PACKAGE / "cli").rglob("*.py"):
        heavy = {n.split(".")[0] for n in at_import(file)} & {"torch", "numpy", "PIL", "transformers"}
        assert not heavy, file
        assert not rooms(at_import(file)) & {"model", "viz", "engine", "train"}, file


# -- names and lengths ------------------------------------------------------------------------------------------------


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "common", "misc", "helpers", "helper", "tools", "core", "base"}
    assert [str(f) for f in FILES if empty & set(f.relative_to(PACKAGE).with_suffix("").parts)] == []


def test_every_module_says_what_it_is() -> None:
    assert [str(file) for file in FILES if not ast.get_docstring(tree(file))] == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_no_file_is_longer_than_400_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for file in FILES:
        for place, node in functions(file):
            first = node.body[1 if ast.get_docstring(node) is not None and len(node.body) > 1 else 0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > 60:
                long[place] = lines
    assert long.keys() <= LONG.keys(), long
    assert LONG.keys() <= long.keys(), "these are short now: take them off the list"


def test_hasattr_is_used_nowhere_but_where_it_is_listed() -> None:
    used = {
        place
        for file in FILES
        for place, node in functions(file)
        for part in ast.walk(node)
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "hasattr"
    }
    assert used <= HASATTR.keys()


def test_no_function_passes_on_whatever_it_is_given() -> None:
    """`**overrides` and `**options` are names that are checked; `**kwargs` is a tunnel."""
    tunnels = [
        place
        for file in FILES
        for place, node in functions(file)
        if node.args.kwarg and node.args.kwarg.arg == "kwargs"
    ]
    assert tunnels == []


def test_what_is_left_to_do_has_an_issue() -> None:
    """The words are put together here, so that this file does not find itself."""
    pattern = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b(?!\W*#\d+)")
    tests = sorted(Path(__file__).parent.glob("*.py"))
    assert [str(f) for f in [*FILES, *tests] if pattern.search(f.read_text(encoding="utf-8"))] == []


# -- the front door ---------------------------------------------------------------------------------------------------


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_hierax_imports_neither_torch_nor_anything_else_that_is_heavy() -> None:
    python(
        "import sys, hierax\n"
        "heavy = {'torch', 'numpy', 'PIL', 'safetensors', 'huggingface_hub', 'rich', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )


def test_listing_models_and_checkpoints_needs_no_torch() -> None:
    python(
        "import sys, hierax; hierax.list_models(); hierax.list_checkpoints(); hierax.HieraConfig()\n"
        "assert 'torch' not in sys.modules"
    )


def test_every_public_name_can_be_had() -> None:
    assert hierax.__all__ == sorted(hierax.__all__)
    for name in hierax.__all__:
        assert getattr(hierax, name).__doc__, name
    assert set(hierax.__all__) <= set(dir(hierax))


def test_a_name_that_is_none_is_refused_like_any_other() -> None:
    with pytest.raises(AttributeError, match="module 'hierax' has no attribute 'Hierarchy'"):
        hierax.Hierarchy  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_models_has_no_effect_beyond_itself() -> None:
    """No change of threads, precision, random state or warnings."""
    python(
        "import torch, warnings\n"
        "def state():\n"
        "    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),\n"
        "            torch.get_float32_matmul_precision(), torch.get_rng_state().tolist(), list(warnings.filters),\n"
        "            torch.backends.cudnn.benchmark)\n"
        "before = state()\n"
        "import hierax.model.tasks, hierax.checkpoint.load\n"
        "assert state() == before"
    )
