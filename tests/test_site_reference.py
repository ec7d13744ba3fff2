"""The reference of the site: every public name and every command has its entry."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

import pytest

from hierax import cli
from public_surface import PACKAGES

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

from site_commands import MARKER, PAGE, command_text, commands_text, explained, plain  # noqa: E402  (after the path is set)
from site_reference import linked, public_names  # noqa: E402

ENTRY = re.compile(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)$", re.MULTILINE)
TIMM = {f"hierax.integrations.timm.{name}" for name in ("Classifier", "FeatureMaps", "register")}


def entries() -> list[str]:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return [name for page in pages for name in ENTRY.findall(page.read_text(encoding="utf-8"))]


def test_every_public_name_has_one_entry() -> None:
    public = {full for name, (full, _) in public_names().items() if name == full} | TIMM
    listed = entries()
    assert public - set(listed) == set()
    assert set(listed) - public == set()
    assert len(listed) == len(set(listed))


def test_timms_names_are_those_of_its_package() -> None:
    text = (ROOT / "src/hierax/integrations/timm/__init__.py").read_text(encoding="utf-8")
    found = re.search(r"__all__ = \[([^\]]*)\]", text)
    assert found
    assert {f"hierax.integrations.timm.{name}" for name in re.findall(r'"(\w+)"', found[1])} == TIMM


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_and_method_says_what_it_is(package: str) -> None:
    silent = []
    for full, value in public_names().values():
        if not full.startswith(package) or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        members = {f"{full}.{n}": v for n, v in vars(value).items() if inspect.isfunction(v) and not n.startswith("_")}
        own = value.__doc__ or ""
        generated = own.startswith(f"{full.rpartition('.')[2]}(")  # what a dataclass without a docstring gets
        silent += [name for name, member in members.items() if not (member.__doc__ or "").strip()]
        silent += [full] if generated or len(own.strip()) < 10 else []
    assert silent == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("see `hierax.Engine`.", "see :py:obj:`hierax.Engine <hierax.Engine>`."),
        ("`Engine.warm_up` first", ":py:obj:`Engine.warm_up <hierax.Engine.warm_up>` first"),
        ("`Engine.nothing`", "``Engine.nothing``"),
        ("`[B, C]` of *all* `export.json`", "``[B, C]`` of \\*all\\* ``export.json``"),
        ("``literal`` and :role:`text`", "``literal`` and :role:`text`"),
    ],
)
def test_a_span_of_a_docstring_is_code_or_a_link(written: str, shown: str) -> None:
    assert linked(written, public_names()) == shown


def test_the_page_of_commands_holds_every_command() -> None:
    assert MARKER in (ROOT / f"{PAGE}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", commands_text(), flags=re.MULTILINE) == list(cli._parser()[1])


@pytest.mark.parametrize("name", cli._parser()[1])
def test_the_part_of_a_command_holds_every_option(name: str) -> None:
    command = cli._parser()[1][name]
    shown = re.findall(r"^```\{option\} (.*)$", command_text(name, command), flags=re.MULTILINE)
    options = {option for line in shown for option in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", line)}
    visible = [action for action in command._actions if action.help not in (None, argparse.SUPPRESS)]
    assert options == {option for action in visible for option in action.option_strings} - {"-h", "--help"}
    assert len(shown) == len(visible) - 1


def test_the_text_below_the_options_becomes_paragraphs_and_blocks() -> None:
    pieces = list(explained("One *word* and\n--top-k 3:\n  hierax classify a.jpg\nMore.\n\nEnd."))
    assert pieces == ["One \\*word\\* and `--top-k` 3:", "```sh\nhierax classify a.jpg\n```", "More.", "End."]


def test_a_setting_is_shown_as_code() -> None:
    assert plain("lr=5e-4 <x>") == "`lr=5e-4` \\<x\\>"
