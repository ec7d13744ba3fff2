"""Emoji of other artists, from packages of npm: the same motifs as those of Debian's font, drawn in other ways."""

import importlib
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from containers import emoji_list, saved

SIDE = 256  # pixels of the pictures that are drawn
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}">{}</svg>'
VARIATION = 0xFE0F  # asks for the colored form of a character; not all sets write it


def slug(name: str) -> str:
    """The name of an emoji as icon sets write it: "cat with wry smile" becomes "cat-with-wry-smile"."""
    return re.sub(r"[^a-z0-9]+", "-", name.replace("’", "").replace("'", "").lower()).strip("-")


def keys(codes: tuple[int, ...]) -> tuple[str, str]:
    """Code points as sets name their files, with and without variation selectors: "1f3cc-fe0f" and "1f3cc"."""
    texts = ["-".join(f"{code:04x}" for code in kept) for kept in (codes, [c for c in codes if c != VARIATION])]
    return texts[0], texts[1]


def drawn(svg: str) -> bytes:
    """A drawing as a PNG file."""
    try:
        renderer = importlib.import_module("resvg_py")
    except ImportError:
        raise SystemExit("resvg_py is missing: pip install resvg-py") from None
    return bytes(renderer.svg_to_bytes(svg_string=svg, width=SIDE))


def drawn_icons(read: Callable[[str], bytes]) -> Callable[[str, tuple[int, ...]], bytes | None]:
    """Draws the icon of a name and code points as a PNG file, from a package of Iconify; None if there is none."""
    icons, named = json.loads(read("package/icons.json")), json.loads(read("package/chars.json"))

    def picture(name: str, codes: tuple[int, ...]) -> bytes | None:
        found = (
            icon_of(icons, each)
            for each in (*(named.get(key, "") for key in keys(codes)), slug(name), slug(name).replace("-", ""))
        )
        icon: Mapping[str, Any] | None = next((icon for icon in found if icon), None)
        if icon is None:
            return None
        width, height = (icon.get(edge, icons.get(edge, 16)) for edge in ("width", "height"))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        return drawn(SVG.format(box, icon["body"]))

    return picture


def icon_of(icons: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The icon of that name or alias."""
    return icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))


def unpack_emoji_set(package: Path, groups: Path, folder: Path) -> None:
    """The pictures of a package of npm (`.tgz`), named as `containers.unpack_emoji` names those of the font.

    A package of Iconify has all drawings in one file; others have a file for each emoji, in `assets/` or `black/svg/`.
    """
    with tarfile.open(package) as archive:
        members = {member.name: member for member in archive if member.isfile()}

        def read(name: str) -> bytes:
            file = archive.extractfile(members[name])
            assert file is not None
            return file.read()

        def kept_picture(_: str, codes: tuple[int, ...]) -> bytes | None:
            names = [f"package/assets/{key}.webp" for key in keys(codes)]
            names += [f"package/black/svg/{key.upper()}.svg" for key in keys(codes)]
            name = next((name for name in names if name in members), None)
            if name is None:
                return None
            return drawn(read(name).decode()) if name.endswith(".svg") else read(name)

        iconify = "package/icons.json" in members
        picture = drawn_icons(read) if iconify else kept_picture
        painted = any(name.startswith("package/assets/") for name in members)
        for name, codes in emoji_list(groups.read_text()):
            content = picture(name.rsplit("/", 1)[-1], codes)
            if content is not None:
                saved(folder, f"{name}{'.webp' if painted else '.png'}", content)
