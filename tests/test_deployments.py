"""Exports, opened by the programs that their layouts are for. tests/deployments/install installs the programs.

The programs of docs/deploy.md are those that run here.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierax
from small import image_config

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent / "deployments"
GUIDE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
CAT = Path(hierax.__file__).parent / "assets" / "cat.jpg"
CLOSE = 1e-3
"""The largest difference of probabilities."""

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`folder(layout, model, **options)`: a folder that hierax wrote; each is made once."""

    @functools.cache
    def make(layout: str, model: str = "hierax/femto", **options: Any) -> Path:
        place = tmp_path_factory.mktemp("deployments") / "femto"
        loaded = hierax.load(model, task=options.pop("task", None))
        size = loaded.config.image_size
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        hierax.export(loaded, place, layout=layout, evaluate=x, **options)
        return place

    return make


@pytest.fixture(scope="module")
def cat() -> tuple[str, float]:
    """The class of the cat and its probability, by hierax in Python."""
    (found,) = hierax.classify(CAT, device="cpu", backend="torch", precision="fp32", top_k=1)
    best = found.predictions[0]
    return best.label, best.probability


def python_of(name: str) -> Path:
    python = HERE / ".envs" / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {name}: run tests/deployments/install")
    return python


def answer_of(*command: str | Path, **options: Any) -> Any:
    """What a program prints on its last line, as JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=900, env=environment, **options
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_top(found: Any, cat: tuple[str, float]) -> None:
    assert found[0]["label"] == cat[0]
    assert abs(found[0]["score"] - cat[1]) < CLOSE


def hidden_of(count: int) -> float:
    model = hierax.load("hierax/femto", task="features")
    x = torch.randn(count, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(x).last_hidden_state.mean().item()


def test_optimum_opens_its_layout(folder: Folder, cat: tuple[str, float]) -> None:
    folders = (folder("optimum"), folder("optimum", task="features"), folder("optimum", task="backbone"), folder("optimum", "hierax/femto.mae"))  # noqa: E501  # fmt: skip
    found = answer_of(python_of("optimum"), HERE / "open_optimum.py", *folders, CAT)
    check_top(found["top"], cat)
    assert found["batch"] == [3, 30]
    assert abs(found["hidden"] - hidden_of(3)) < 1e-4
    assert found["both"] == ["last_hidden_state", "pooler_output"]
    assert found["maps"] == [3, 320, 5, 5]
    assert found["mae"][0] == 3


def test_optimum_opens_a_segmentation_model(tmp_path: Path) -> None:
    """The file has the coarse logits, as those of transformers' Segformer are."""
    torch.manual_seed(0)
    model = hierax.HieraForSemanticSegmentation(image_config(num_labels=3)).eval()
    hierax.export(model, tmp_path / "export", layout="optimum")
    found = answer_of(python_of("optimum"), HERE / "open_optimum_segmentation.py", tmp_path / "export")
    with torch.no_grad():
        coarse = model.coarse_logits(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert found["shape"] == [3, 3, 16, 16]
    torch.testing.assert_close(torch.tensor(found["logits"]), coarse[0, :, 0, 0], atol=1e-4, rtol=1e-4)


def test_optimum_intel_opens_the_same_layout_in_openvino(folder: Folder, cat: tuple[str, float]) -> None:
    folders = (folder("optimum", format="openvino"), folder("optimum", format="openvino", task="features"))
    found = answer_of(python_of("optimum-intel"), HERE / "open_optimum_intel.py", *folders, CAT)
    check_top(found["top"], cat)
    assert found["batch"] == [3, 30]
    assert abs(found["hidden"] - hidden_of(3)) < 1e-4
    assert found["both"] == ["last_hidden_state", "pooler_output"]


def test_the_program_of_the_guide_for_optimum_runs(folder: Folder, cat: tuple[str, float], tmp_path: Path) -> None:
    site = site_of(folder("optimum"), tmp_path, name="femto-onnx")
    (program,) = programs("py")
    python = python_of("optimum")
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=900, cwd=site)
    assert done.returncode == 0, done.stderr
    check_top(json.loads(done.stdout.splitlines()[-1].replace("'", '"')), cat)


# -- transformers.js --------------------------------------------------------------------------------------------------


def programs(language: str) -> list[str]:
    """The programs of the guide in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)


def site_of(folder: Path, place: Path, *, name: str = "femto-js") -> Path:
    """A folder with the model, a photo and the packages of npm, as the guide has them."""
    shutil.copytree(folder, place / name)
    shutil.copy(CAT, place / "photo.jpg")
    if (HERE / "node_modules").exists():
        (place / "node_modules").symlink_to(HERE / "node_modules")
    return place


def needs_npm(program: str) -> str:
    found = shutil.which(program)
    if found is None or not (HERE / "node_modules" / "@huggingface" / "transformers").exists():
        pytest.skip(f"needs {program} and the npm package @huggingface/transformers: run tests/deployments/install")
    return found


@pytest.mark.parametrize(("precision", "bound"), [("fp32", CLOSE), ("fp16", CLOSE), ("int8", 0.02)])
def test_node_gives_the_label_and_the_probability_of_python(
    folder: Folder, cat: tuple[str, float], tmp_path: Path, precision: str, bound: float
) -> None:
    node = needs_npm("node")
    site = site_of(folder("transformers.js", precision=precision), tmp_path)
    (program,) = programs("js")
    (site / "classify.mjs").write_text(program)
    (top,) = answer_of(node, "classify.mjs", cwd=site)
    assert top["label"] == cat[0]
    assert abs(top["score"] - cat[1]) < bound


def test_node_gives_the_features_of_python(folder: Folder, tmp_path: Path) -> None:
    node = needs_npm("node")
    site = site_of(folder("transformers.js", task="features"), tmp_path)
    (program,) = programs("js")
    head = program[: program.index("const classify")]
    (site / "features.mjs").write_text(
        head + 'const extract = exactPixels(await pipeline("image-feature-extraction", "femto-js"));\n'
        'const [tokens, pooled] = [await extract("photo.jpg"), await extract("photo.jpg", { pool: true })];\n'
        "console.log(JSON.stringify([tokens.tolist(), pooled.tolist()]));\n"
    )
    tokens, pooled = answer_of(node, "features.mjs", cwd=site)
    model = hierax.load("hierax/femto", task="features")
    with torch.no_grad():
        expected = model(hierax.HieraImageProcessor.from_pretrained("hierax/femto")(CAT).pixel_values)
    assert torch.allclose(torch.tensor(tokens), expected.last_hidden_state, atol=1e-4)
    assert torch.allclose(torch.tensor(pooled), expected.pooler_output, atol=1e-4)


_PROBE = """<script>
const tell = (kind, body) => fetch("/" + kind, { method: "POST", body });
addEventListener("error", (event) => tell("error", event.message));
addEventListener("unhandledrejection", (event) => tell("error", String(event.reason?.stack ?? event.reason)));
addEventListener("DOMContentLoaded", () => new MutationObserver(() => tell("result", document.body.textContent))
  .observe(document.body, { childList: true }));
</script>
"""


def read_page(browser: str, site: Path, profile: Path) -> tuple[str, str]:
    """What a page of a folder shows or fails with first, in a browser that reaches this computer alone."""
    told: list[tuple[str, str]] = []
    done = threading.Event()
    page = (_PROBE + (site / "index.html").read_text(encoding="utf-8")).encode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            told.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(site))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        with subprocess.Popen([browser, *options, address], stderr=subprocess.DEVNULL) as process:
            done.wait(600)
            process.terminate()
        server.shutdown()
    assert told, "the page said nothing"
    return told[0]


def test_a_browser_gives_the_label_and_the_probability_of_python(
    folder: Folder, cat: tuple[str, float], tmp_path: Path
) -> None:
    browser = needs_npm("chromium")
    (tmp_path / "site").mkdir()
    site = site_of(folder("transformers.js"), tmp_path / "site")
    (page,) = programs("html")
    (site / "index.html").write_text(page)
    kind, text = read_page(browser, site, tmp_path / "profile")
    assert kind == "/result", text
    check_top(json.loads(text), cat)


# -- servers ----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_triton_serves_its_layout(folder: Folder, cat: tuple[str, float], tmp_path: Path) -> None:
    """The server is NVIDIA's; its ONNX Runtime backend, which PyPI has not, is one in Python."""
    python = python_of("triton")
    repository = folder("triton")
    packages = next((python.parents[1] / "lib").glob("python3.*")) / "site-packages"
    server, backends = packages / "pytriton" / "tritonserver", tmp_path / "backends"
    shutil.copytree(server / "backends" / "python", backends / "python")
    stub = server / "python_backend_stubs" / packages.parent.name.removeprefix("python") / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    (backends / "python" / stub.name).chmod(0o755)
    shutil.copytree(HERE / "triton_backend", backends / "onnxruntime")
    ports = {name: free_port() for name in ("http", "grpc", "metrics")}
    environment = {
        **os.environ, "TRITON_PACKAGES": str(packages), "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }  # fmt: skip
    command = [server / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}",
               *(f"--{name}-port={port}" for name, port in ports.items())]  # fmt: skip
    pixels: Any = hierax.HieraImageProcessor.from_pretrained("hierax/femto")(CAT, return_tensors="np")["pixel_values"]
    np.save(tmp_path / "pixels.npy", pixels)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment)
        try:
            found = answer_of(python, HERE / "ask_triton.py", str(ports["http"]), "femto", tmp_path / "pixels.npy")
        finally:
            process.terminate()
            process.wait()
    probabilities = torch.tensor(found["logits"]).softmax(-1)[0]
    assert abs(probabilities.max().item() - cat[1]) < CLOSE
    assert found["best"][0][0].split(":")[-1] == cat[0]
    assert (found["batch"], found["most"]) == ([5, 30], 32)


def test_openvino_runs_the_model_of_the_layout_for_its_server(folder: Folder, cat: tuple[str, float]) -> None:
    """As the server does: the newest version in `base_path`, with the settings of the plugin."""
    from hierax.engine.backends.openvino import shared_core

    repository = folder("ovms")
    (entry,) = json.loads((repository / "config.json").read_text())["model_config_list"]
    base = repository / entry["config"]["base_path"]
    newest = max((path for path in base.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    (file,) = newest.glob("*.xml")
    compiled: Any = shared_core().compile_model(file, "CPU", entry["config"]["plugin_config"])
    pixels: Any = hierax.HieraImageProcessor.from_pretrained("hierax/femto")(CAT, return_tensors="np")["pixel_values"]
    logits = torch.from_numpy(compiled({"pixel_values": pixels})["logits"].copy())
    assert abs(logits.softmax(-1).max().item() - cat[1]) < CLOSE


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-m", "peers"]))
