"""Uses hierax once, as a user of one extra would: `python tools/smoke.py EXTRA`, with that extra alone.

`core` is the package without extras. The program writes into the working folder. It needs no network. It is run by
`tools/check_wheel.py`, in an environment where nothing but the wheel and its requirements is installed.
"""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import hierax

ASSETS = Path(hierax.__file__).parent / "assets"
CAT = ASSETS / "cat.jpg"
PHOTOS = ASSETS / "photos"
SCRIPT = """
import hierax
model = hierax.load("hierax/femto").eval()
pixels = hierax.AutoImageProcessor.from_pretrained("hierax/femto")(hierax.load_image(PATH))["pixel_values"]
index = model(pixels).logits.argmax().item()
print(model.config.id2label[index])
"""


def hierax_command(*arguments: object, code: int = 0) -> str:
    """Runs `hierax` and returns what it printed. Another exit code than `code` is an error."""
    command = [str(Path(sys.executable).with_name("hierax")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def drawn(count: int) -> Path:
    """A folder of images in two classes, circles and squares."""
    for number in range(count):
        for label in ("circles", "squares"):
            image = Image.new("RGB", (64, 64), (40 + number % 200, 60, number // 2 % 256))
            draw = ImageDraw.Draw(image)
            shape = draw.ellipse if label == "circles" else draw.rectangle
            shape((8 + number % 16, 8, 40 + number % 16, 40), fill=(220, 180, 60))
            folder = Path("drawn", label)
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    return Path("drawn")


def core() -> None:
    """Without extras: the first commands of the README, training, and the message about a missing package."""
    labels = hierax_command("classify", CAT, "--json")
    assert json.loads(labels.splitlines()[0])["predictions"], labels
    hierax_command("demo", "-o", "demo")
    assert Path("demo/sheet.png").stat().st_size > 10_000
    Path("five.py").write_text(SCRIPT.replace("PATH", repr(str(CAT))), encoding="utf-8")
    label = subprocess.run([sys.executable, "five.py"], capture_output=True, text=True, check=True).stdout.strip()
    assert label in labels, (label, labels)
    hierax_command("features", CAT, "-o", "maps")
    hierax_command("finetune", drawn(8), "-o", "run", "epochs=1", "batch_size=4", "image_size=64", "workers=0")
    hierax_command("classify", CAT, "--model", "run/model")
    message = hierax_command("embed", PHOTOS, "-o", "none", code=2)
    assert "hierax[embed]" in message, message
    assert "hierax" in hierax_command("doctor")


def fast() -> None:
    """A JPEG file is decoded by simplejpeg."""
    import simplejpeg

    calls: list[int] = []
    decode = simplejpeg.decode_jpeg
    simplejpeg.decode_jpeg = lambda *a, **k: calls.append(1) or decode(*a, **k)
    assert next(iter(hierax.classify([CAT], precision="bf16"))).error is None
    hierax_command("classify", *sorted(PHOTOS.iterdir()), "--precision", "bf16")
    assert calls, "simplejpeg was not used"


def openvino() -> None:
    """OpenVINO runs a model, also in int8, and an export."""
    hierax_command("classify", CAT, "--backend", "openvino")
    hierax_command("export", "-o", "int8", "--format", "openvino", "--precision", "int8")
    hierax_command("classify", CAT, "--model", "int8")


def onnx() -> None:
    """A model is exported to ONNX, and ONNX Runtime runs it."""
    hierax_command("export", "-o", "onnx", "--format", "onnx")
    hierax_command("classify", CAT, "--model", "onnx")
    hierax_command("classify", CAT, "--backend", "onnxruntime")


def plot() -> None:
    """A measurement is drawn."""
    hierax_command("bench", "--seconds", "0.1", "--rounds", "2", "--backend", "torch", "--plot", "bench.png")
    assert Path("bench.png").stat().st_size > 5_000


def train() -> None:
    """A run writes a report with a plot, and a log for TensorBoard."""
    settings = ("epochs=1", "batch_size=4", "image_size=64", "workers=0")
    hierax_command("finetune", drawn(8), "-o", "run", *settings)
    assert list(Path("run").rglob("events.out.tfevents*")), sorted(Path("run").rglob("*"))


def data() -> None:
    """A Parquet file with images is read."""
    import datasets

    files = sorted(PHOTOS.iterdir())
    columns = {"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files], "label": [0] * len(files)}
    datasets.Dataset.from_dict(columns).to_parquet("photos.parquet")
    assert "astronaut" not in hierax_command("stats", "photos.parquet")


def video() -> None:
    """A video file is written with PyAV, and read."""
    import av
    import numpy as np

    from hierax.processing import HieraVideoProcessor

    with av.open("clip.mp4", "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 10, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    pixels = HieraVideoProcessor()("clip.mp4")["pixel_values"]
    assert pixels.ndim == 5, pixels.shape
    assert pixels.std() > 0, "all frames are equal"


def embed() -> None:
    """A collection is made and searched."""
    hierax_command("embed", PHOTOS, "-o", "collection", "--workers", "0")
    assert "astronaut" in hierax_command("search", "collection", PHOTOS / "astronaut.jpg", "--html", "page.html")
    hierax_command("duplicates", "collection")
    hierax_command("map", "collection", "-o", "map.html")


def search() -> None:
    """A collection is searched with an approximate index."""
    hierax_command("embed", drawn(500), "-o", "collection", "--workers", "0")  # an index has at least 1000 rows
    assert "circles" in hierax_command("search", "collection", "drawn/circles/0.png", "--approximate")


def ray() -> None:
    """A collection is made on a cluster of this machine."""
    hierax_command("embed", PHOTOS, "-o", "collection", "--ray")
    assert "astronaut" in hierax_command("search", "collection", PHOTOS / "astronaut.jpg")


def transformers() -> None:
    """The models are classes of transformers."""
    from transformers import AutoModelForImageClassification

    import hierax.integrations.transformers

    hierax.load("hierax/femto").save_pretrained("femto")
    model = AutoModelForImageClassification.from_pretrained("femto")
    assert model.config.num_labels > 1


def timm() -> None:
    """The models are models of timm."""
    import importlib

    import torch

    from hierax.integrations.timm import register

    register()
    model = importlib.import_module("timm").create_model("hierax_hiera_tiny_224", features_only=True)
    assert len(model(torch.zeros(1, 3, 64, 64))) == 4


def serve() -> None:
    """A server starts, answers and stops."""
    command = [str(Path(sys.executable).with_name("hierax")), "serve", "--port", "0", "--backend", "torch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        try:
            lines = []
            for line in server.stdout:
                lines.append(line)
                if address := re.search(r"page (http://127\.0\.0\.1:\d+)", line):
                    break
            else:
                raise SystemExit("".join(lines))
            header = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"{address[1]}/v1/classify", data=CAT.read_bytes(), headers=header)
            assert json.load(urllib.request.urlopen(request, timeout=60))["results"][0]["predictions"]
            assert b"<html" in urllib.request.urlopen(f"{address[1]}/", timeout=60).read()
            assert urllib.request.urlopen(f"{address[1]}/docs", timeout=60).status == 200
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0, server.returncode


def dense() -> None:
    """A detector is trained for two steps on drawn boxes, and finds objects."""
    annotations, images = [], []
    Path("boxes").mkdir()
    for number in range(6):
        image = Image.new("RGB", (80, 60), (30, 60 + number, 90))
        ImageDraw.Draw(image).rectangle((10, 10, 40, 35), fill=(220, 180, 60))
        image.save(f"boxes/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        box = {"bbox": [10, 10, 31, 26], "area": 806, "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number + 1, "image_id": number, **box})
    values = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    Path("boxes/boxes.json").write_text(json.dumps(values), encoding="utf-8")
    settings = ("steps=2", "batch_size=2", "image_size=64", "workers=0")
    hierax_command("finetune", "boxes/boxes.json", "-o", "run", "--task", "detect", "--from", "hierax/femto", *settings)
    hierax_command("detect", "boxes/0.png", "-o", "found", "--model", "run/model")


def adapters() -> None:
    """A LoRA adapter is trained."""
    settings = ("adapter=lora", "rank=2", "epochs=1", "batch_size=4", "image_size=64", "workers=0")
    hierax_command("finetune", drawn(8), "-o", "run", *settings)
    assert Path("run/adapter/adapter_config.json").is_file()


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        core, fast, openvino, onnx, plot, train, data, video, embed, search, ray, transformers, timm, serve, dense,
        adapters,
    )
}  # fmt: skip


if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    print(f"{sys.argv[1]}: {(CHECKS[sys.argv[1]].__doc__ or '').partition(chr(10))[0]}")
