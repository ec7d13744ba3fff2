"""Puts trained checkpoints into the package: half precision, license, what was measured, the report of int8.

    python femto/ship.py [--classifier RUN] [--mae RUN] --measured OUT

RUN are runs of `hierax finetune` and `hierax pretrain` (or of femto/gpu.py), OUT is the folder of femto/measure.py. A
checkpoint that is not given stays as it is.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import hierax
from hierax.engine.export.parity import ParityReport
from hierax.model.pretrained import Pretrained

ASSETS = Path(__file__).parent.parent / "src" / "hierax" / "assets"
LARGEST = 8_000_000  # bytes of a tensor file


def ship(source: Path, name: str, metrics: dict[str, object]) -> Path:
    """Writes the folder of one checkpoint."""
    model: Pretrained = hierax.load(source)
    model.config = model.config.replace(license="Apache-2.0")
    folder = ASSETS / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.float16).save_pretrained(folder)
    size = (folder / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{folder}: {size} bytes of weights; at most {LARGEST} are shipped")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"{folder}: {size / 1e6:.2f} MB, {model.num_parameters():,} parameters, {model.license}")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Writes those that are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--mae", type=Path)
    parser.add_argument("--measured", type=Path, required=True)
    a = parser.parse_args(argv)
    metrics = json.loads((a.measured / "metrics.json").read_text())
    for source, name in ((a.classifier, "femto"), (a.mae, "femto.mae")):
        if source is not None:
            ship(source, name, metrics.get(name, {}))
    if a.classifier is not None:
        report = a.measured / "parity.json"
        shutil.copy(report, ASSETS / "femto" / "int8-parity.json")
        misses = ParityReport.from_dict(json.loads(report.read_text())).misses
        print(f"int8: {'; '.join(misses) or 'within the tolerance'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
