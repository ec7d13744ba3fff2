"""The photos that `hierax demo` shows, and the packages of its gallery: whose they are, and under which license.

No model was trained on any of them (`femto/gallery.py` checks that). Everybody may use, change and sell them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Whose pictures are, under which license, and where that is said."""

    author: str
    license: str
    source: str


PUBLIC_DOMAIN, CC0, APACHE = "public domain", "CC0-1.0", "Apache-2.0"
EMOJI = "fonts-noto-color-emoji"
GALLERY: Mapping[str, Terms] = {  # packages whose pictures may all be used
    "openclipart-png": Terms("contributors to openclipart.org", PUBLIC_DOMAIN, "Debian: openclipart-png"),
    "pysiogame": Terms("Ireneusz Imiolek, openclipart.org, Tango", PUBLIC_DOMAIN, "Debian: pysiogame"),
    EMOJI: Terms("Google", APACHE, "Debian: fonts-noto-color-emoji"),
    "iso-flags-png-320x240": Terms("various", PUBLIC_DOMAIN, "Debian: iso-flags-png-320x240"),
}
_COMMONS = "https://commons.wikimedia.org/wiki/File:"
_BERASATEGI = Terms("Aitzol Berasategi", "CC-BY-4.0", "Debian: lomiri-wallpapers-16.04")
_GCOMPRIS, _PALAPELI = "gcompris-qt-data", "palapeli-data"
_THINGS = "categorization/images"


@dataclass(frozen=True)
class Shown:
    """A single photo: its package and path, whose it is, and its category ("": that of the split)."""

    package: str
    below: str
    terms: Terms
    label: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is named by."""
        return self.package, self.below


def _on_commons(package: str, below: str, author: str, license: str, file: str, label: str = "") -> Shown:
    """A photo of a package that Wikimedia Commons has too, as `file`."""
    return Shown(package, below, Terms(author, license, f"Debian: {package}; {_COMMONS}{file}"), label)


PHOTOS: Mapping[str, Shown] = {  # chosen before any model saw them: docs/log.md, 2026-11-29
    "astronaut": Shown(
        "scikit-image", "astronaut", Terms("NASA (Eileen Collins)", PUBLIC_DOMAIN, "PyPI: scikit-image")
    ),
    "bee": _on_commons(
        _PALAPELI, "european-honey-bee", "John Severns", PUBLIC_DOMAIN, "European_honey_bee_extracts_nectar.jpg"
    ),
    "citrus": _on_commons(
        _PALAPELI, "citrus-fruits", "US Department of Agriculture", PUBLIC_DOMAIN, "Citrus_fruits.jpg"
    ),
    "coffee": Shown("scikit-image", "coffee", Terms("Rachel Michetti", CC0, "PyPI: scikit-image")),
    "flower": Shown(
        "scikit-learn", "flower",
        Terms("vultilion", "CC-BY-2.0", "PyPI: scikit-learn; https://www.flickr.com/photos/vultilion/6056698931"),
    ),
    "mountains": Shown("lomiri-wallpapers-16.04", "aitzgorri_by_Aitzol_Berasategi", _BERASATEGI),
    "scissors": _on_commons(_GCOMPRIS, f"{_THINGS}/tools/scissors2", "Modeha", "CC-BY-1.0", "2scissors.jpg"),
}  # fmt: skip
CAT = ("scikit-image", "chelsea")  # the photo that is there already
MORE = (  # photos for the gallery: all that are held out, free, surely credited, and show one of the categories
    _on_commons(_GCOMPRIS, f"{_THINGS}/monuments/greatWall", "Hao Wei", "CC-BY-2.0", "The_Great_wall_-_by_Hao_Wei.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/renewable/windmill", "G-Man", PUBLIC_DOMAIN, "Chesterton_Windmill.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/renewable/dam2", "László Szalai", PUBLIC_DOMAIN, "Bekes-dam_duzzaszto.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/renewable/dam3", "David Brodbeck", "CC-BY-2.0", "Grand_Coulee_Dam_spillway.jpg"),
    Shown(
        _GCOMPRIS, f"{_THINGS}/fishes/fish4",
        Terms("Hadal", PUBLIC_DOMAIN, f"Debian: {_GCOMPRIS}; https://incubator.wikimedia.org/wiki/File:YellowPerch.jpg"),
    ),
    _on_commons(_GCOMPRIS, f"{_THINGS}/fishes/fish8", "William W. Hartley", PUBLIC_DOMAIN, "Atlantischer_Lachs.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/tools/nailCutter", "Tripy", PUBLIC_DOMAIN, "Cortaunyas.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/tools/screwDriver", "Dmitry G", PUBLIC_DOMAIN, "Screw_driver.jpg"),
    _on_commons(_GCOMPRIS, f"{_THINGS}/tools/multimeter2", "Chabrez", PUBLIC_DOMAIN, "Multimeter_DT-830.jpg"),
    Shown("lomiri-wallpapers-16.04", "sunset_by_Aitzol_Berasategi", _BERASATEGI),
    _on_commons(
        _PALAPELI, "cincinnati-bridge", "Derek Jensen", PUBLIC_DOMAIN, "Cincinnati-roebling-suspension-bridge.jpg",
        "buildings",
    ),
    Shown(
        "puzzle-jigsaw", "pexels-photo-302304",
        Terms("Pexels", CC0, "Debian: puzzle-jigsaw; https://www.pexels.com/photo/angry-animal-big-carnivore-302304/"),
        "mammals",
    ),
    Shown(
        "puzzle-jigsaw", "cat-animal-cat-portrait-mackerel",
        Terms("Pexels", CC0, "Debian: puzzle-jigsaw; https://www.pexels.com/photo/animal-pet-fur-head-33537/"),
        "mammals",
    ),
    Shown(
        "matplotlib", "grace_hopper", Terms("US Navy (Grace Hopper)", PUBLIC_DOMAIN, "PyPI: matplotlib"), "people",
    ),
)  # fmt: skip
