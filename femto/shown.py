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


def _commons(package: str, file: str) -> str:
    return f"Debian: {package}; {_COMMONS}{file}"


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


PHOTOS: Mapping[str, Shown] = {  # chosen before any model saw them: docs/log.md, 2026-11-29
    "astronaut": Shown(
        "scikit-image", "astronaut", Terms("NASA (Eileen Collins)", PUBLIC_DOMAIN, "PyPI: scikit-image")
    ),
    "bee": Shown(
        _PALAPELI, "european-honey-bee",
        Terms("John Severns", PUBLIC_DOMAIN, _commons(_PALAPELI, "European_honey_bee_extracts_nectar.jpg")),
    ),
    "citrus": Shown(
        _PALAPELI, "citrus-fruits",
        Terms("US Department of Agriculture", PUBLIC_DOMAIN, _commons(_PALAPELI, "Citrus_fruits.jpg")),
    ),
    "coffee": Shown("scikit-image", "coffee", Terms("Rachel Michetti", CC0, "PyPI: scikit-image")),
    "flower": Shown(
        "scikit-learn", "flower",
        Terms("vultilion", "CC-BY-2.0", "PyPI: scikit-learn; https://www.flickr.com/photos/vultilion/6056698931"),
    ),
    "mountains": Shown("lomiri-wallpapers-16.04", "aitzgorri_by_Aitzol_Berasategi", _BERASATEGI),
    "scissors": Shown(
        _GCOMPRIS, f"{_THINGS}/tools/scissors2", Terms("Modeha", "CC-BY-1.0", _commons(_GCOMPRIS, "2scissors.jpg"))
    ),
}  # fmt: skip
CAT = ("scikit-image", "chelsea")  # the photo that is there already
MORE = (  # photos for the gallery: all that are held out, free, surely credited, and show one of the categories
    Shown(
        _GCOMPRIS, f"{_THINGS}/monuments/greatWall",
        Terms("Hao Wei", "CC-BY-2.0", _commons(_GCOMPRIS, "The_Great_wall_-_by_Hao_Wei.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/renewable/windmill",
        Terms("G-Man", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Chesterton_Windmill.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/renewable/dam2",
        Terms("László Szalai", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Bekes-dam_duzzaszto.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/renewable/dam3",
        Terms("David Brodbeck", "CC-BY-2.0", _commons(_GCOMPRIS, "Grand_Coulee_Dam_spillway.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/fishes/fish4",
        Terms("Hadal", PUBLIC_DOMAIN, f"Debian: {_GCOMPRIS}; https://incubator.wikimedia.org/wiki/File:YellowPerch.jpg"),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/fishes/fish8",
        Terms("William W. Hartley", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Atlantischer_Lachs.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/tools/nailCutter",
        Terms("Tripy", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Cortaunyas.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/tools/screwDriver",
        Terms("Dmitry G", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Screw_driver.jpg")),
    ),
    Shown(
        _GCOMPRIS, f"{_THINGS}/tools/multimeter2",
        Terms("Chabrez", PUBLIC_DOMAIN, _commons(_GCOMPRIS, "Multimeter_DT-830.jpg")),
    ),
    Shown("lomiri-wallpapers-16.04", "sunset_by_Aitzol_Berasategi", _BERASATEGI),
    Shown(
        _PALAPELI, "cincinnati-bridge",
        Terms("Derek Jensen", PUBLIC_DOMAIN, _commons(_PALAPELI, "Cincinnati-roebling-suspension-bridge.jpg")),
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
