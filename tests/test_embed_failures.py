"""What sources, networks, models and memory can do: a row of errors with its reason, or an end in order; never more."""

from __future__ import annotations

import http.server
import io
import os
import stat
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import hierax.collection.urls as urls
from hierax import HieraModel
from hierax.collection import content
from hierax.collection.content import read_file, read_member
from hierax.collection.source import Source
from hierax.embedding import FeatureExtractor, embed
from hierax.embedding.decode import Decoder
from hierax.embedding.processes import Pool, ProcessDied
from hierax.embedding.sources import list_sources
from hierax.notices import Notice
from pictures import BAD, COUNT, OPTIONS, RECORD
from small import image_config, randomize
from tiffs import tiff

pytest_plugins = ("pictures",)


def errors(out: Path) -> dict[str, str]:
    """Reasons by the last part of the path."""
    rows = pq.read_table(out / "errors.parquet").to_pylist()
    return {row["path"].rpartition("/")[2]: row["error"] for row in rows}


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


# -- whatever reading one source raises --------------------------------------------------------------------------------


class PayloadError(Exception):
    """Of a client of networks: neither an OSError nor a ValueError."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PayloadError("Response payload is not completed"), "PayloadError: Response payload is not completed"),
        (ImportError("Install s3fs to access S3"), "ImportError: Install s3fs to access S3"),
        (BadZipFile("File is not a zip file"), "BadZipFile: File is not a zip file"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (MemoryError(), "not enough memory"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_any_error_of_one_source_is_one_row(
    originals: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    read = Source.read

    def failing(self: Source, **options: Any) -> Any:
        if self.path.endswith("/010.png"):
            raise error
        return read(self, **options)

    monkeypatch.setattr(Source, "read", failing)
    report = embed(originals / "a", tmp_path / "out", model=model, **OPTIONS)
    assert (report.rows, report.errors) == (20 - 3, 3)
    assert errors(tmp_path / "out")["010.png"] == reason


@pytest.mark.parametrize("workers", [1, 2])
def test_also_in_a_process_that_decodes(originals: Path, model: str, tmp_path: Path, workers: int) -> None:
    (tmp_path / "no.zip").write_text("this is no zip file")
    lines = [*map(str, sorted((originals / "b").glob("*.png"))), f"zip://x.jpg::file://{tmp_path}/no.zip"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    report = embed(tmp_path / "list.txt", tmp_path / "out", model=model, **{**OPTIONS, "workers": workers})
    assert (report.rows, report.errors, report.pending) == (23, 2, 0)
    assert errors(tmp_path / "out")["no.zip"] == "BadZipFile: File is not a zip file"


def test_a_client_that_is_not_installed_is_named_before_anything_is_made(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    urls._check_clients.cache_clear()
    (tmp_path / "list.csv").write_text("path\na.png\ns3://bucket/1.jpg\n")
    with pytest.raises(ImportError, match=r"list.csv: a URL of s3:// needs the package s3fs: pip install s3fs$"):
        embed(tmp_path / "list.csv", tmp_path / "out", model=model, **OPTIONS)
    assert not (tmp_path / "out").exists()
    urls._check_clients.cache_clear()


def fail(request: int) -> torch.Tensor:
    if request == 3:
        raise MemoryError
    if request == 5:
        raise ValueError("no such request")
    if request == 7:
        os._exit(1)
    return torch.full((2, 3), request)


def test_a_pool_answers_in_the_order_of_the_requests() -> None:
    assert [int(found[0, 0]) for found in Pool(fail, 2).map([0, 1, 2])] == [0, 1, 2]
    ready = Pool(fail, 1, ready=lambda found: found + 1).map([0, 1])
    assert [int(found[0, 0]) for found in ready] == [1, 2]


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [(3, MemoryError, "ran out of memory"), (5, RuntimeError, "ValueError: no such"), (7, ProcessDied, "was killed")],
)
def test_what_happens_in_a_process_is_raised_here(request_: int, kind: type[BaseException], text: str) -> None:
    pool = Pool(fail, 2)
    with pytest.raises(kind, match=text):
        list(pool.map([1, request_, 1, 1]))
    assert not any(process.is_alive() for process in pool._processes)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_errors_and_said_at_once(
    originals: Path, tmp_path: Path, value: float
) -> None:
    broken: Any = randomize(HieraModel(image_config()))
    broken.preprocessing = RECORD
    broken.norm.bias.data[:1] = value
    with pytest.warns(
        Notice, match=r"the model's features are not finite for .*000.png, maybe also for others"
    ) as said:
        report = embed(originals, tmp_path / "out", model=broken, **OPTIONS)
    assert len(said) == 1
    assert (report.rows, report.errors) == (0, COUNT)
    reasons = Counter(errors(tmp_path / "out").values())
    assert reasons["the model's features are not finite"] == COUNT - len(BAD)


def test_numbers_that_float16_cannot_hold_are_not_finite(originals: Path, tmp_path: Path) -> None:
    large: Any = randomize(HieraModel(image_config()))
    large.preprocessing = RECORD
    large.norm.bias.data[:1] = 1e5
    assert embed(originals / "b", tmp_path / "whole", model=large, **OPTIONS).errors == 1
    with pytest.warns(Notice, match="not finite"):
        assert embed(originals / "b", tmp_path / "half", model=large, half=True, **OPTIONS).rows == 0


def test_batches_of_nothing_that_can_be_read_cost_no_computation(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compute = FeatureExtractor.__call__
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda self, pixels: (calls.append(1), compute(self, pixels))[1])
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "list.txt").write_text("a.png\n" + "".join(f"missing{n}.png\n" for n in range(99)))
    report = embed(tmp_path / "list.txt", tmp_path / "out", model=model, **OPTIONS)
    assert (report.rows, report.errors, len(calls)) == (1, 99, 1)


def test_a_model_that_answers_for_fewer_images_is_out_of_memory(
    originals: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = FeatureExtractor.__call__
    few: Any = lambda self, pixels: {name: found[:0] for name, found in compute(self, pixels).items()}  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "__call__", few)
        with pytest.raises(MemoryError, match="the model returned results for fewer than 4 images"):
            embed(originals, tmp_path / "out", model=model, **OPTIONS)
    assert embed([], tmp_path / "out", model=model, **OPTIONS).rows == COUNT - len(BAD)


def test_what_there_was_no_memory_for_is_tried_again_by_an_update(
    originals: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resize(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("hierax.embedding.decode.resize_crop_fast", resize)
        assert embed(originals / "b", tmp_path / "out", model=model, **OPTIONS).rows == 0
    report = embed([], tmp_path / "out", model=model, update=True, **OPTIONS)
    assert (report.rows, report.errors) == (23, 1)


# -- files -------------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path: Path, model: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(png())
    os.mkfifo(pictures / "b.png")
    (pictures / "c.png").symlink_to("/dev/zero")
    (pictures / "d.png").mkdir()
    embed([pictures, pictures / "d.png" / ".."], tmp_path / "out", model=model, **OPTIONS)
    found = errors(tmp_path / "out")
    assert set(found) == {"b.png", "c.png"}
    assert all("not a regular file" in reason for reason in found.values())


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet", "shard.tar"])
def test_a_pipe_in_the_place_of_a_list_or_shard_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}.*not a regular file"):
        list(list_sources([str(tmp_path / name)]))


def test_a_file_is_looked_at_before_much_of_it_is_read(tmp_path: Path) -> None:
    for name, start in (("junk.png", b""), ("image.png", png())):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(100 << 30)
    with pytest.raises(ValueError, match="not an image"):
        read_file(str(tmp_path / "junk.png"))
    with pytest.raises(ValueError, match=r"107,374,182,400 bytes for 40 x 30 pixels"):
        read_file(str(tmp_path / "image.png"))
    with pytest.raises(ValueError, match="not an image"):
        read_member(str(tmp_path / "image.png"), 512, 99 << 30)
    with pytest.raises(ValueError, match=r"truncated: 3 of 9 bytes are present"):
        read_member(str(write(tmp_path / "short", b"123")), 0, 9)


@pytest.mark.parametrize("kind", ["png", "npy", "tif", "bands.tif"])
def test_large_files_of_every_kind_are_read_whole_also_from_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(content, "_SURE", 1000)  # bytes above which the header is looked at
    values = np.random.default_rng(0).random((20, 30, 3))
    if kind == "npy":
        np.save(tmp_path / "a.npy", values)
    elif kind == "png":
        Image.fromarray((values * 255).astype(np.uint8)).save(tmp_path / "a.png")
    elif kind == "tif":  # Pillow does not open it
        (tmp_path / "a.tif").write_bytes(tiff(values.astype(np.float32), photometric=2))
    else:
        (tmp_path / "a.bands.tif").write_bytes(tiff(np.repeat(values, 4, axis=2).astype(np.float32), photometric=1))
    file = tmp_path / f"a.{kind}"
    whole = file.read_bytes()
    assert read_file(str(file)) == whole
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(file, "first")
        shard.add(file, "second")
    with tarfile.open(tmp_path / "a.tar") as shard:
        place = shard.getmember("second")
    assert read_member(str(tmp_path / "a.tar"), place.offset_data, place.size) == whole
    with pytest.raises(ValueError, match="larger than --max-pixels 599"):
        read_file(str(file), max_pixels=599)


def test_an_image_for_which_memory_was_missing_is_tried_again_by_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(image: Image.Image) -> None:
        raise MemoryError

    decoder = Decoder(RECORD)
    out = np.zeros((decoder.record.num_channels, *decoder.shape), np.uint8)
    source = Source(str(write(tmp_path / "a.png", png())))
    assert decoder(source, out).hash
    monkeypatch.setattr(PngImageFile, "load", full)
    item = decoder(source, out)
    assert (item.error, item.hash) == ("not enough memory for 40 x 30 pixels", "")  # a hash would stop the update


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_empty_source_or_folder_is_an_error(model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'': an empty source; expected a file, folder"):
        embed([""], tmp_path / "out", model=model, **OPTIONS)
    with pytest.raises(ValueError, match="out is empty; expected a folder"):
        embed([tmp_path], "", model=model, **OPTIONS)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.zip"])
def test_a_compressed_archive_is_to_be_unpacked(model: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(
        ValueError, match=rf"{name}: a compressed archive; unpack it into a folder, or into a plain .tar"
    ):
        embed([tmp_path / name], tmp_path / "out", model="no model is needed to see it", **OPTIONS)


def test_a_damaged_list_in_parquet_is_named(tmp_path: Path) -> None:
    names = [f"{n:06}.jpg" for n in range(50_000)]
    pq.write_table(pa.table({"path": names}), tmp_path / "list.parquet", compression="zstd")
    content = bytearray((tmp_path / "list.parquet").read_bytes())
    content[40:4000] = bytes(3960)
    (tmp_path / "list.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"list.parquet: damaged, or not a parquet file"):
        list(list_sources([str(tmp_path / "list.parquet")]))


@pytest.mark.parametrize(
    ("header", "row"),
    [("image_path,category", "b.png,x"), ("img,class_name", "b.png,x"), ("id,File Name", "1,b.png"), ("URL", "b.png")],
)
def test_columns_of_paths_have_the_names_that_people_write(tmp_path: Path, header: str, row: str) -> None:
    (tmp_path / "list.csv").write_text(f"{header}\n{row}\n")
    assert [Path(source.path).name for source in list_sources([str(tmp_path / "list.csv")])] == ["b.png"]


def test_a_column_of_paths_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("foto,path\nb.png,wrong.png\n")
    (tmp_path / "list.txt").write_text("foto\nc.png\n")
    pq.write_table(pa.table({"foto": ["d.png"]}), tmp_path / "list.parquet")
    inputs = [str(tmp_path / f"list.{kind}") for kind in ("csv", "txt", "parquet")]
    found = list_sources(inputs, columns={"path": "foto"})
    assert [Path(source.path).name for source in found] == ["b.png", "c.png", "d.png"]
    with pytest.raises(ValueError, match=r"list.csv: no column 'bild'; there are: foto, path"):
        list(list_sources(inputs, columns={"path": "bild"}))


def test_all_pictures_of_a_tar_are_taken_whatever_their_names(tmp_path: Path) -> None:
    names = ["IMG.2020.01.02.jpg", "photo.final.v2.JPG", "./22.0/1.1.png", "cat.jpg", "cat.png", "1.jpg", "1.mask.png"]
    with tarfile.open(tmp_path / "p.tar", "w") as shard:
        for name in (*names, "1.json", "._cat.jpg", ".git/x.png", "x.heic"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            shard.addfile(member, io.BytesIO(png()))
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "cat.jpg"), ("22.0/soft.jpg", tarfile.SYMTYPE, "../cat.png"),
            ("again.jpg", tarfile.SYMTYPE, "22.0/soft.jpg"), ("lost.jpg", tarfile.SYMTYPE, "nowhere.jpg"),
            ("loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            shard.addfile(member)
    with pytest.warns(Notice, match=r"p.tar: 1 file left out: 1 .heic"):
        found = {s.path.partition("::")[2]: s for s in list_sources([str(tmp_path / "p.tar")])}
    assert set(found) == {*names, "hard.jpg", "22.0/soft.jpg", "again.jpg", "lost.jpg", "loop.jpg"}
    assert found["again.jpg"].read() == found["hard.jpg"].read() == png()
    for name in ("lost.jpg", "loop.jpg"):
        with pytest.raises(ValueError, match="a link to a file that is not in the archive"):
            found[name].read()


def test_errors_are_in_a_file_that_is_always_there(originals: Path, model: str, tmp_path: Path) -> None:
    embed(originals / "a" / "001.png", tmp_path / "out", model=model, **OPTIONS)
    assert pq.read_table(tmp_path / "out" / "errors.parquet").num_rows == 0
    assert stat.S_ISREG((tmp_path / "out" / "errors.parquet").stat().st_mode)


# -- URLs --------------------------------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    asked: Counter[str] = Counter()

    def log_message(self, format: str, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if self.path == "/busy.png" and self.asked[self.path] < 3:
            self.send_error(503)
        elif self.path == "/loop.png":
            self.send_response(302)
            self.send_header("Location", "/loop.png")
            self.end_headers()
        elif self.path[1:4].isdecimal():
            self.send_error(int(self.path[1:4]))
        elif self.path != "/silent.png":
            self.send_response(200)
            self.send_header("Content-Length", str(len(png()) + (100 if self.path == "/short.png" else 0)))
            self.end_headers()
            self.wfile.write(png())
        else:
            self.server.quiet.wait(60)  # type: ignore[attr-defined]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Server.asked.clear()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(urls.time, "sleep", lambda _: None)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.daemon_threads = True
    made.quiet = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.quiet.set()  # type: ignore[attr-defined]
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("403.png", "403 Forbidden"),
        ("404.png", "404 Not Found"),
        ("429.png", "429 Too Many Requests"),
        ("500.png", "500 Internal Server Error"),
        ("loop.png", "too many redirects (302)"),
        ("short.png", "the response ended after {got} of {all} bytes"),
    ],
)
def test_why_a_url_cannot_be_had_is_said(server: str, name: str, reason: str) -> None:
    with pytest.raises(urls.UrlError) as caught:
        Source(f"{server}/{name}", "url").read()
    assert str(caught.value) == reason.format(got=len(png()), all=len(png()) + 100)


def test_a_server_that_is_busy_is_asked_again_a_little(server: str) -> None:
    assert Source(f"{server}/busy.png", "url").read() == png()
    for name, times in (("busy.png", 3), ("429.png", 3), ("404.png", 1), ("500.png", 1)):
        if name != "busy.png":
            with pytest.raises(OSError, match=r"\d"):
                Source(f"{server}/{name}", "url").read()
        assert Server.asked[f"/{name}"] == times


def test_a_silent_server_a_closed_port_and_an_unknown_host_are_told_apart(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "SECONDS", 0.05)
    for url, reason in (
        (f"{server}/silent.png", "no response within"),
        ("http://127.0.0.1:9/x.png", "Connection refused"),
        ("http://no-such-host.invalid/x.png", "no such host"),
        ("http:///x.png", "no host in this URL"),
    ):
        with pytest.raises(OSError, match=reason):
            Source(url, "url").read()


def test_names_in_urls_need_not_be_quoted(server: str) -> None:
    assert Source(f"{server}/ä b.png?x=ö y#z", "url").read() == png()
    assert Server.asked["/%C3%A4%20b.png?x=%C3%B6%20y"] == 1


def test_a_list_of_urls_is_embedded_but_for_what_cannot_be_had(server: str, model: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{server}/{name}\n" for name in ("a.png", "404.png", "short.png")))
    report = embed(tmp_path / "list.txt", tmp_path / "out", model=model, **OPTIONS)
    assert (report.rows, report.errors) == (1, 2)
    assert errors(tmp_path / "out")["404.png"] == "404 Not Found"
