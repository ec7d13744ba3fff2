"""The words that people read: short, usual, American. Names in the code are not looked at here."""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierax import cli

ROOT = Path(__file__).parents[1]
BANNED = {
    r"goes on|go on|went on": "resume",
    r"anew": "with random weights",
    r"pictures?": "image",
    r"dialects?": "format",
    r"allowed:": "expected …",
    r"(?:within|outside|misses|meets) (?:the|its) bar": "tolerance",
    r"learnt|by heart": "learned, overfitting",
    r"neighbours?|colours?|coloured|grey|cent(?:re|red)|licences?|behaviour": "American spelling",
    r"(?:model|label)l(?:ing|ed)|(?:normal|initial)is(?:e|es|ed|ing|ation)": "American spelling",
    r"is no (?:image|picture|variant|setting|field|export|size|value)": "is not a …",
}
PATTERN = re.compile("|".join(rf"(?<![\w-])(?:{words})(?![\w-])" for words in BANNED), re.IGNORECASE)
EXEMPT = {
    "log.md": "a diary of measurements: entries are not rewritten afterwards",
    "femto.md": "its commands name PICTURES, a folder of the scripts in femto/",
}
VALUES = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
"""Code in a page: names."""
ROOMS = (".", *sorted(path.parent.name for path in (ROOT / "src/hierax").glob("*/__init__.py")))
"""Packages whose docstrings and comments are checked; "." is the modules beside the packages."""
PAGES = (".", "docs", "notebooks", "benchmarks", "femto", "src/hierax/assets")
"""Folders of Markdown."""
NAMES = re.compile(r"^ *\w+(?:, \w+)*(?=: )|\w+=|\"[^\"\n]*\"|\btest_pictures\b", re.MULTILINE)
"""Names in a docstring: of an argument or attribute that is explained, of a keyword, and values in quotes."""


def literals(path: Path) -> Iterator[str]:
    """Strings with a space, which are sentences, save docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in bare
        ):
            yield node.value


def explanations(path: Path) -> Iterator[str]:
    """Docstrings, also those of constants and attributes, and comments that are no instruction to a tool."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield NAMES.sub("", node.value.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def found(text: str) -> list[str]:
    """The words of `text` that are not to be used, with some of what is around them."""
    text = VALUES.sub("", text)
    return [text[max(0, match.start() - 40) : match.end() + 40] for match in PATTERN.finditer(text)]


@pytest.mark.parametrize(
    "folder", [".", *sorted(path.name for path in (ROOT / "src/hierax").iterdir() if path.is_dir())]
)
def test_messages_and_help_use_plain_words(folder: str) -> None:
    place = ROOT / "src/hierax" / folder
    files = place.glob("*.py") if folder == "." else place.rglob("*.py")
    assert {path.name: words for path in files if (words := [w for t in literals(path) for w in found(t)])} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_and_comments_use_plain_words(room: str) -> None:
    place = ROOT / "src/hierax" / room
    files = place.glob("*.py") if room == "." else place.rglob("*.py")
    assert {path.name: words for path in files if (words := [w for t in explanations(path) for w in found(t)])} == {}


def test_a_name_that_is_explained_is_not_a_word() -> None:
    assert not found(
        NAMES.sub("", '    pictures: one for each\n    dialect, neighbours: names\n    part="free-pictures"')
    )
    assert found(NAMES.sub("", "    images: the pictures"))


@pytest.mark.parametrize(
    "page",
    sorted(page for place in PAGES for page in (ROOT / place).glob("*.md")),
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_pages_use_plain_words(page: Path) -> None:
    assert page.name in EXEMPT or found(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["it goes on", "no picture", "the timm dialect", "drawn anew", "x; allowed: 1", "grey"]
)
def test_the_words_are_found(text: str) -> None:
    assert found(text)
    assert not found("`picture`, anewly, bars")


def helps(option: str) -> dict[str, str]:
    """What each command that has an option says of it."""
    found = {
        name: action.help or ""
        for name, command in cli._parser()[1].items()
        for action in command._actions
        if option in action.option_strings
    }
    return {name: text for name, text in found.items() if text != argparse.SUPPRESS}


@pytest.mark.parametrize(
    ("option", "sentences"), [("--overwrite", 1), ("--max-pixels", 1), ("--debug", 1), ("--threads", 1), ("--json", 2)]
)
def test_an_option_of_several_commands_is_explained_alike(option: str, sentences: int) -> None:
    texts = helps(option)
    assert len(texts) > 1
    assert len(set(texts.values())) == sentences, texts


@pytest.mark.parametrize(
    ("option", "start"),
    [
        ("--output", "output "),
        ("--device", "auto (default), cpu, cuda, cuda:1, mps"),
        ("--workers", "number of processes"),
    ],
)
def test_the_explanations_of_an_option_begin_alike(option: str, start: str) -> None:
    assert [name for name, text in helps(option).items() if not text.startswith(start)] == []


BRITISH = re.compile(
    r"neighbour|colour|behaviour|licence|(?:normal|initial|quant|recogn|random|serial|standard|visual)is(?:e|ing|ation)"
    r"|(?:label|model)l(?:ed|ing)|\bcentre|(?<![a-z])grey(?![a-z])",
    re.IGNORECASE,
)
FORMER = {
    "CHANGELOG.md": "former names",
    "docs/log.md": "a diary",
    "src/hierax/cli/outliers.py": "--neighbours still works",
    "src/hierax/cli/parsing.py": "what people write for a command",
    "src/hierax/collection/index.py": "Index.neighbours still works",
    "src/hierax/train/settings.py": "target=normalised in files of older versions",
    "tests/test_cli_names.py": "--neighbours still works",
    "tests/test_train_recipes.py": "target=normalised still works",
    "tests/test_words.py": "this file",
}


def test_spelling_is_american_in_names_too() -> None:
    folders = ("src", "tests", "docs", "notebooks", "benchmarks", "femto")
    files = [path for folder in folders for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}")]
    files += ROOT.glob("*.md")
    british = {path.relative_to(ROOT).as_posix() for path in files if BRITISH.search(path.read_text(encoding="utf-8"))}
    assert british - FORMER.keys() == set()
