"""Times the whole process from start to first answer: import, load tiny from a folder, classify one photo.

    python benchmarks/start_to_answer.py [--runs 10]

The same program, once with hierax and once with transformers, in turn, each in a process of its own with the files warm
in the page cache; prints wall time and peak memory (the system's own accounting of each process) and the ratio of each
pair. Run it with a Python that has both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PROGRAM = """
from {library} import AutoImageProcessor, HieraForImageClassification
processor = AutoImageProcessor.from_pretrained({folder!r})
model = HieraForImageClassification.from_pretrained({folder!r})
{image}
print(model(**processor(image, return_tensors="pt")).logits.argmax().item())
"""
OPEN = {"hierax": "image = {photo!r}", "transformers": "from PIL import Image; image = Image.open({photo!r})"}


def prepare(folder: Path) -> Path:
    """Saves tiny with its preprocessing record, and a photo-sized picture; returns the picture's path."""
    import hierax

    model = hierax.create_model("hiera_tiny_224")
    model.preprocessing = hierax.Preprocessing()
    model.save_pretrained(folder)
    rows, columns = np.mgrid[0:480, 0:640]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 13), np.sin((rows + columns) / 17)], axis=-1)
    Image.fromarray(((waves + 1) * 127).astype(np.uint8)).save(folder / "photo.jpg", quality=90)
    return folder / "photo.jpg"


def run(program: str) -> tuple[float, float, str]:
    """Wall time in seconds, peak resident memory in MiB, and what was printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=out, stderr=subprocess.DEVNULL, env=environment)  # noqa: E501  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read().decode().strip()
    if process.returncode:
        raise RuntimeError(f"the program failed:\n{program}")
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return seconds, usage.ru_maxrss * scale / 2**20, printed


def main() -> None:
    """Runs the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.prepare)
        return
    with tempfile.TemporaryDirectory() as name:
        # in a process of its own: Linux counts the memory of the one that starts a process as that one's, too
        subprocess.run([sys.executable, "-W", "ignore", __file__, "--prepare", name], check=True)
        photo = Path(name) / "photo.jpg"
        programs = {
            library: PROGRAM.format(library=library, folder=name, image=opening.format(photo=str(photo)))
            for library, opening in OPEN.items()
        }
        answers = {library: run(program)[2] for library, program in programs.items()}  # warms the page cache
        assert len(set(answers.values())) == 1, f"the answers differ: {answers}"
        rows = [{library: run(program) for library, program in programs.items()} for _ in range(arguments.runs)]
    print("| | hierax | transformers | ratio (median of pairs, quartiles) |\n|---|---|---|---|")
    for what, index, form in (("wall time, s", 0, ".2f"), ("peak memory, MiB", 1, ".0f")):
        measured = {library: [float(row[library][index]) for row in rows] for library in programs}
        medians = [statistics.median(values) for values in measured.values()]
        ratios = [a / b for a, b in zip(measured["hierax"], measured["transformers"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        print(f"| {what} | {medians[0]:{form}} | {medians[1]:{form}} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


if __name__ == "__main__":
    main()
