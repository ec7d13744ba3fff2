"""Pictures that packages keep inside of other files: Qt's resources, a font of emoji, catalogs of furniture."""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from fontTools.ttLib import TTFont

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
FOLDER, PACKED = 2, 1 | 4  # flags of an entry of a resource file; packed by zlib or zstd


def saved(folder: Path, name: str, content: bytes) -> None:
    """Writes a file below a folder, whatever its name holds."""
    path = folder / re.sub(r"[^\w./ :&-]", "_", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in a `.rcc` file of Qt that is not packed (pictures never are).

    The file is a header, then at offsets that the header names a tree, the contents and the names. An entry of the tree
    is the offset of its name, flags, and for a folder the number of its entries and the first one; for a file two
    numbers for the language, and the offset of its content.
    """
    magic, version, tree, contents, names = struct.unpack_from(">4sIIII", content)
    if magic != b"qres":
        raise ValueError(f"a resource file begins with b'qres', not {magic!r}")
    size = 22 if version >= 2 else 14

    def entries(index: int, above: str) -> Iterator[tuple[str, bytes]]:
        at = tree + size * index
        name_at, flags = struct.unpack_from(">IH", content, at)
        length = struct.unpack_from(">H", content, names + name_at)[0] if index else 0
        name = content[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        path = f"{above}/{name}" if above else name
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", content, at + 6)
            for child in range(first, first + count):
                yield from entries(child, path)
        elif not flags & PACKED:
            start = contents + struct.unpack_from(">I", content, at + 10)[0]
            (length,) = struct.unpack_from(">I", content, start)
            yield path, content[start + 4 : start + 4 + length]

    yield from entries(0, "")


def unpack_resources(package: Path, folder: Path) -> None:
    """The pictures of GCompris, in a folder for each activity."""
    for path in sorted(package.rglob("*.rcc")):
        for name, content in resources(path.read_bytes()):
            if Path(name).suffix in PICTURES:
                saved(folder, re.sub(r"^gcompris/src/(activities/)?|resource/", "", name), content)


def unpack_furniture(package: Path, folder: Path) -> None:
    """The icons of the furniture of Sweet Home 3D, in a folder for each category of its catalogs."""
    for path in sorted(package.rglob("*.sh3f")):
        with ZipFile(path) as archive:
            catalog = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            entries: dict[str, dict[str, str]] = defaultdict(dict)
            for key, number, value in re.findall(r"^(category|icon)#(\d+)=(.*?)\s*$", catalog, re.MULTILINE):
                entries[number][key] = value
            for entry in entries.values():
                icon = entry["icon"].lstrip("/")
                saved(folder, f"{entry['category']}/{path.stem}/{Path(icon).name}", archive.read(icon))


def emoji_list(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """`group/subgroup/name` and code points of the emoji in Unicode's `emoji-test.txt`, each in its full form.

    Of the forms of an emoji in several tones of skin there is one, chosen by the name, beside the one without.
    """
    group = subgroup = ""
    for line in text.splitlines():
        if line.startswith("# group:"):
            group = line.split(":")[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":")[1].strip()
        elif found := re.match(r"([0-9A-F ]+);\s*fully-qualified\s*#\s*\S+ E[\d.]+ (.*)", line):
            name = found[2].replace("/", " ")
            tones = re.findall(r"(light|medium-light|medium|medium-dark|dark) skin tone", name)
            kinds = ("light", "medium-light", "medium", "medium-dark", "dark")
            if tones:
                base = name.split(":")[0]
                if tones != [kinds[sum(base.encode()) % 5]]:
                    continue
                name = re.sub(r"[a-z-]+ skin tone", "", name).rstrip(":, ") + "-skin"
            yield f"{group}/{subgroup}/{name}", tuple(int(code, 16) for code in found[1].split())


def ligatures(font: TTFont) -> dict[tuple[str, ...], str]:
    """The glyph that stands for each sequence of glyphs."""
    found: dict[tuple[str, ...], str] = {}
    substitutions: Any = font["GSUB"]
    for lookup in substitutions.table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, several in getattr(table, "ligatures", {}).items():
                for one in several:
                    found[(first, *one.Component)] = one.LigGlyph
    return found


def unpack_emoji(font_file: Path, groups: Path, folder: Path) -> None:
    """The color pictures of a font (its table CBDT holds PNG files), in a folder for each group and subgroup."""
    font = TTFont(font_file)
    bitmaps: Any = font["CBDT"]
    pictures = bitmaps.strikeData[0]
    glyphs, sequences = font.getBestCmap() or {}, ligatures(font)
    for name, codes in emoji_list(groups.read_text()):
        for kept in (codes, tuple(code for code in codes if code != 0xFE0F)):
            if all(code in glyphs for code in kept):
                sequence = tuple(glyphs[code] for code in kept)
                glyph = sequence[0] if len(sequence) == 1 else sequences.get(sequence)
                if glyph in pictures:
                    saved(folder, f"{name}.png", pictures[glyph].imageData)
                    break
