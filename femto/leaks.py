"""Finds held-out pictures that look like one that is trained on, with the project's own `embed` and `duplicates`.

    python femto/leaks.py PICTURES --model M [--threshold 0.5] -o FOLDER

All pictures of PICTURES (the folder of femto/pictures.py) are embedded by M; groups of near-duplicates, verified on
pixels, that have members on both sides are written to FOLDER/leaks.csv: the held-out picture and one it looks like.
What is a leak is taken out of the test set by a row in femto/wrong.csv.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import hierax

SIDES = {"unlabeled": "train", "labeled/val": "val", "labeled/test": "test", "held_out_photos": "test"}


def side(path: str, pictures: Path) -> str:
    """On which side of the split a picture of the folder is."""
    place = Path(path).relative_to(pictures.resolve()).as_posix()
    return next(name for start, name in SIDES.items() if place.startswith(f"{start}/"))


def leaks(pictures: Path, features: Path, *, threshold: float) -> list[tuple[str, str, float]]:
    """Held-out picture, what it looks like, and how much its group's members look alike at the least."""
    found = []
    for group in hierax.duplicates(features, threshold=threshold, whiten=True, verify=True):
        sides = {member.path: side(member.path, pictures) for member in group.members}
        trained = [path for path, name in sides.items() if name == "train"]
        least = min(member.score for member in group.members)
        found += [(path, trained[0], least) for path, name in sides.items() if name != "train" and trained]
    return sorted(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Embeds, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", default="hierax/femto")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("-o", "--out", type=Path, required=True)
    a = parser.parse_args(argv)
    hierax.embed([a.pictures / place for place in SIDES], a.out / "features", model=a.model, update=True)
    found = leaks(a.pictures, a.out / "features", threshold=a.threshold)
    with (a.out / "leaks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("held out", "looks like", "similarity"))
        rows.writerows((held, like, f"{least:.3f}") for held, like, least in found)
    print(f"{len(found)} held-out pictures look like one that is trained on: {a.out / 'leaks.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
