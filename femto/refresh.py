"""Makes everything anew that depends on the weights of hierax/femto: the one command after they changed.

    python femto/refresh.py PICTURES [-o measured]

PICTURES is the folder of femto/pictures.py. Written are the photos and the gallery of the demo (femto/gallery.py), the
threshold of "not sure" (femto/sure.py, in `assets/femto/metrics.json`), `docs/demo.png` and `docs/reconstruction.png`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import gallery
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.cli import main as hierax_command
from hierax.demo.demo import demo
from hierax.demo.filling import HIDDEN
from sure import sure, sure_metrics

HERE = Path(__file__).parent
ASSETS = HERE.parent / "src" / "hierax" / "assets"
RECONSTRUCTED = ("cat.jpg", "photos/flower.jpg", "photos/bee.jpg")
COLORS, WIDEST = 256, 1240  # of a picture in the documentation: a tenth of the bytes of the sheet


def measure_threshold(pictures: Path, out: Path) -> dict[str, object]:
    """Measures when the demo may be sure; stores it with the weights."""
    found = sure(argparse.Namespace(pictures=pictures, classifier=FEMTO))
    out.mkdir(parents=True, exist_ok=True)
    (out / "sure.json").write_text(json.dumps(found, indent=1) + "\n")
    file = ASSETS / "femto" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | sure_metrics(found), indent=1) + "\n")
    return found


def save_small(sheet: Image.Image, path: Path) -> None:
    """Saves a sheet with few colors, and not wider than `WIDEST`."""
    width = min(sheet.width, WIDEST)
    small = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
    small.quantize(COLORS, kmeans=2).save(path, optimize=True)


def draw(docs: Path) -> None:
    """Draws the pictures of the documentation."""
    save_small(demo(tell=print), docs / "demo.png")
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "reconstruction.png"
        photos = [str(ASSETS / name) for name in RECONSTRUCTED]
        hierax_command(["reconstruct", *photos, "-o", str(drawn), "--model", FEMTO_MAE, "--mask-ratio", str(HIDDEN)])
        save_small(Image.open(drawn).convert("RGB"), docs / "reconstruction.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Makes all of it, and prints the threshold and what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("measured"))
    a = parser.parse_args(argv)
    failed = gallery.main([str(a.pictures)])
    print(json.dumps(measure_threshold(a.pictures, a.out), indent=1), flush=True)
    draw(HERE.parent / "docs")
    return failed


if __name__ == "__main__":
    sys.exit(main())
