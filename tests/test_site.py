"""The documentation site: its pages and links without building it, and one build as a slow proof."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from test_docs import prose

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

from site_pages import CONTENTS, with_titles  # noqa: E402  (after the path is set)
from site_reference import public_names  # noqa: E402

PAGES = ("README", *(page for part in CONTENTS.values() for page in part))


def slug(head: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {slug(head) for head in heads}


def links(page: Path) -> Iterator[str]:
    """Targets in this repository: of links and of images."""
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target


def test_links_named_by_a_file_get_the_title_of_the_page() -> None:
    text = "see [docs/label.md](docs/label.md), [b.md](c/b.md#part), [label](docs/label.md), [b.md](a.md), [b.md]"
    shown = "see [](docs/label.md), [](c/b.md#part), [label](docs/label.md), [b.md](a.md), [b.md]"
    assert with_titles(text) == shown


def test_every_page_is_in_the_contents_once() -> None:
    files = [path for folder in ("docs", "notebooks") for path in (ROOT / folder).rglob("*.md")]
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in files}
    assert written <= set(PAGES)
    assert len(PAGES) == len(set(PAGES))
    assert [page for page in PAGES if not (ROOT / f"{page}.md").is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / f"{page}.md"
    for target in links(path):
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title_and_it_is_the_first_line(page: str) -> None:
    text = prose((ROOT / f"{page}.md").read_text(encoding="utf-8"))
    text = re.sub(r"\A---\n.*?^---\n+", "", text, flags=re.DOTALL | re.MULTILINE)  # the head of a notebook
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1


# -- the built site --------------------------------------------------------------------------------------------------


class Built(HTMLParser):
    """What a built page links to, what it loads, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag in ("a", "area"):
            self.links.append(values.get("href", ""))
        else:
            self.loads += [values[name] for name in ("src", "href", "srcset", "data", "poster") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning as an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-c", "docs/site"]
    done = subprocess.run(
        [*command, "-d", str(place / "read"), ".", str(place / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return place / "html"


@pytest.mark.slow
def test_the_built_site_is_complete_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert (site / "index.html").is_file()
    pages = {path: Built(path) for path in site.rglob("*.html")}
    assert {f"{page}.html" for page in PAGES} <= {path.relative_to(site).as_posix() for path in pages}
    for path, page in pages.items():
        assert [load for load in page.loads if re.match(r"(https?:)?//", load)] == [], path.name
        for link in page.links:
            if re.match(r"[a-z]+:", link) or not link:
                continue
            name, _, anchor = unquote(link).partition("#")
            found = (path.parent / name).resolve() if name else path
            assert found.exists(), f"{path.name}: {link}"
            assert not anchor or found.suffix != ".html" or anchor in pages[found].anchors, f"{path.name}: {link}"
    for style in site.rglob("*.css"):
        outside = re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)'\"]*", style.read_text(encoding="utf-8"))
        assert outside == [], style.name


@pytest.mark.slow
def test_every_public_name_has_a_place_in_the_built_reference(site: Path) -> None:
    places = {anchor for page in (site / "docs/reference").glob("*.html") for anchor in Built(page).anchors}
    assert {full for full, _ in public_names().values()} - places == set()


@pytest.mark.slow
def test_the_search_of_the_built_site_needs_no_server(site: Path) -> None:
    """Its index is a script beside the page."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    assert "reconstruct" in index
    assert "searchindex.js" in Built(site / "search.html").loads
