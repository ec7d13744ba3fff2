"""Collections that are damaged, or made by somebody who means no good: one change each to a folder that is whole."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from collections_of import collection, noise
from hierax.collection.duplicates import duplicates
from hierax.collection.listing import Listing, listing_path
from hierax.collection.source import Source

ROWS = 24
MANIFEST, SHARD, LISTING = "manifest.json", "data/part-0000-0000000.parquet", "listings/0000.parquet"
RECORD = {
    "do_resize": True, "size": {"shortest_edge": 72}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
    "image_processor_type": "BitImageProcessor",
}  # fmt: skip
VALUES: list[Any] = [
    None, 0, -1, 1.5, True, "", "x", "../../x", "\x1b[31m\n", [], [None], {}, {"a": None}, 10**30, [[[]]], "\ud800",
]  # fmt: skip


def whole(folder: Path) -> Path:
    """A collection with a listing, mapped files and kept pairs, to be changed."""
    paths = [str(folder / f"{i}.jpg") for i in range(ROWS)]
    collection(folder, noise(ROWS), paths=paths, preprocessing=RECORD, inputs=(str(folder),))
    Listing(Source(path) for path in paths).write(listing_path(folder, 0))
    duplicates(folder, threshold=0.5)
    return folder


@dataclass(frozen=True)
class Change:
    """A change to a whole collection: `make` is called with the folder of a copy."""

    name: str
    make: Callable[[Path], object]


def changes() -> list[Change]:
    """All of them; every n-th of them are as mixed as all."""
    return [*_manifests(), *_shards(), *_listings(), *_index(), *_any_file()]


def apply(change: Change, original: Path, folder: Path) -> Path:
    """A copy of the original with the change, times kept: they are part of the names of mapped files."""
    shutil.copytree(original, folder)
    change.make(folder)
    return folder


# -- manifest.json ------------------------------------------------------------------------------------------------

TEXTS = {
    "null": "null", "list": "[]", "number": "7", "empty": "", "cut": '{"model": "x"', "binary": "\x00\xff\x80",
    "deep": '{"config": ' + "[" * 100_000 + "]" * 100_000 + "}", "digits": '{"format": ' + "9" * 10_000 + "}",
    "nan": '{"format": NaN}', "twice": '{"format": 1, "format": null}', "unknown": '{"format": 1, "fingerprint": "x"}',
}  # fmt: skip


def _manifests() -> Iterator[Change]:
    for name, text in TEXTS.items():
        yield Change(f"manifest: {name}", _written(MANIFEST, text.encode("utf-8", "surrogateescape")))
    fields = (
        "model", "weights", "config", "preprocessing", "columns", "l2", "dtype", "precision", "block", "batch",
        "inputs", "created", "version", "format", "fingerprint", "list_columns", "other",
    )  # fmt: skip
    for name in fields:
        yield Change(f"manifest: without {name}", _edited((), name, None, drop=True))
        for value in VALUES:
            yield Change(f"manifest: {name} = {value!r:.20}", _edited((), name, value))
    for name in ("name", "layer", "shape", "pooling", "other"):
        for value in (*VALUES, [0], [-8], [2**40, 2**40], [9], ["8"], [1.0], "id", "a/b"):
            yield Change(f"manifest: columns[0].{name} = {value!r:.20}", _edited(("columns", 0), name, value))
    for name in (*RECORD, "num_frames", "sampling_rate", "fps"):
        for value in (*VALUES, {"height": 10**9, "width": 10**9}, float("nan")):
            yield Change(f"manifest: preprocessing.{name} = {value!r:.20}", _edited(("preprocessing",), name, value))


def _edited(place: tuple[str | int, ...], name: str, value: Any, *, drop: bool = False) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        values = part = json.loads((folder / MANIFEST).read_text())
        for step in place:
            part = part[step]
        part[name] = value
        if drop:
            del part[name]
        (folder / MANIFEST).write_text(json.dumps(values))

    return make


# -- shards and listings ------------------------------------------------------------------------------------------


def _column(kind: pa.DataType, value: Any) -> Callable[[int], pa.Array]:
    return lambda rows: pa.array([value] * rows, kind)


COLUMNS = {
    "nulls": _column(pa.null(), None),
    "null texts": _column(pa.string(), None),
    "integers": _column(pa.int64(), 7),
    "large texts": _column(pa.large_string(), "x"),
    "bytes": _column(pa.binary(), b"\xff\xfe"),
    "floats": _column(pa.float64(), float("nan")),
    "lists": _column(pa.list_(pa.string()), ["x"]),
    "records": _column(pa.struct([("a", pa.int32())]), {"a": 1}),
    "categories": lambda rows: pa.array(["x"] * rows).dictionary_encode(),
    "texts with odd characters": _column(pa.string(), "a\x00\x1b[2J\n" * 3),
    "long texts": _column(pa.string(), "x" * 100_000),
    "doubles": _column(pa.list_(pa.float64(), 8), [0.5] * 8),
    "integers in lists": _column(pa.list_(pa.int32(), 8), [1] * 8),
    "lists of other widths": _column(pa.list_(pa.float32(), 9), [0.5] * 9),
    "lists of any width": _column(pa.list_(pa.float32()), [0.5]),
    "null lists": _column(pa.list_(pa.float32(), 8), None),
    "nulls in lists": _column(pa.list_(pa.float32(), 8), [None] * 8),
    "no numbers": _column(pa.list_(pa.float32(), 8), [float("nan")] * 8),
    "huge numbers": _column(pa.list_(pa.float32(), 8), [3e38] * 8),
    "zeros": _column(pa.list_(pa.float32(), 8), [0.0] * 8),
}
NOTES = ["null", "7", "[7]", "[null]", "{}", "[{}]", '[{"id": 1}]', "[", "\xff", "[" * 5000, '[{"id": null, "path": 1,'
         ' "hash": [], "error": {}}]', '[{"id": "", "path": "", "hash": "", "error": "", "more": ""}]']  # fmt: skip


def _tables(file: str, names: tuple[str, ...]) -> Iterator[Change]:
    for name in names:
        yield Change(f"{file}: without {name}", _table(file, lambda t, n=name: t.drop_columns([n])))
        yield Change(f"{file}: {name} twice", _table(file, lambda t, n=name: t.append_column(n, t.column(n))))
        for what, column in COLUMNS.items():
            yield Change(f"{file}: {name} of {what}", _table(file, _with(name, column)))
    yield Change(f"{file}: no rows", _table(file, lambda t: t.slice(0, 0)))
    yield Change(f"{file}: no columns", _table(file, lambda t: t.select([])))


def _with(name: str, column: Callable[[int], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(t.column_names.index(name), name, column(t.num_rows))


def _table(file: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        path = folder / file
        changed = change(pq.read_table(path))
        path.unlink()
        pq.write_table(changed, path, compression="zstd")

    return make


def _shards() -> Iterator[Change]:
    yield from _tables(SHARD, ("id", "path", "width", "hash", "status", "embedding"))
    for notes in NOTES:
        data = {b"hierax.unreadable": notes.encode("latin-1")}
        yield Change(f"{SHARD}: notes {notes[:20]}", _table(SHARD, lambda t, d=data: t.replace_schema_metadata(d)))
    yield Change("a shard of another name", lambda f: os.rename(f / SHARD, f / "data/part-x.parquet"))
    yield Change("a shard twice", lambda f: shutil.copy(f / SHARD, f / "data/part-0000-0000001.parquet"))
    yield Change("no shards", lambda f: (f / SHARD).unlink())


def _listings() -> Iterator[Change]:
    yield from _tables(LISTING, ("path", "kind", "container", "offset", "window"))
    for name, value in {
        "kind": ["url", "tar", "table", "nothing", ""], "container": ["/dev/zero", "hub:x", "", "\0"],
        "offset": [-1, 2**62], "size": [-1, 2**62], "window": [-2, 0, 5],
    }.items():  # fmt: skip
        for chosen in value:
            make = _with(name, lambda rows, v=chosen, n=name: pa.array([v] * rows, _TYPES[n]))
            yield Change(f"listing: {name} = {chosen!r}", _table(LISTING, make))
    yield Change("no listings", lambda f: shutil.rmtree(f / "listings"))


_TYPES = {"kind": pa.string(), "container": pa.string(), "offset": pa.int64(), "size": pa.int64(), "window": pa.int32()}


# -- index/ -------------------------------------------------------------------------------------------------------


def _npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _archive(entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return content.getvalue()


HUGE = _header("{'descr': '<f4', 'fortran_order': False, 'shape': (20000000000000, 8), }\n") + b"\0" * 64
ARRAYS = {
    "empty": b"", "magic": b"\x93NUMPY", "noise": b"\x93NUMPY\x01\x00nonsense" * 30, "huge": HUGE,
    "negative": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-24, 8), }\n"),
    "deep": _header("(" * 9000 + ")" * 9000), "code": _header("__import__('os').abort()\n"),
    "long": _header("{'descr': '<f4'" + " " * 60_000), "other version": b"\x93NUMPY\x03\x00" + HUGE[8:],
    "objects": _npy(np.array([{}], object)), "doubles": _npy(np.ones((ROWS, 8))), "line": _npy(np.ones(3, np.float32)),
    "columns first": _npy(np.asfortranarray(np.ones((ROWS, 8), np.float32))), "scalar": _npy(np.float32(1)),
    "more rows": _npy(np.ones((99, 8), np.float32)), "no numbers": _npy(np.full((ROWS, 8), np.nan, np.float32)),
    "archive": _archive({"x": HUGE}), "records": _npy(np.zeros(2, [("a", "<f4")])),
}  # fmt: skip
KEPT = {
    "known": np.zeros(2, np.uint64), "left": np.zeros(2, np.uint64), "right": np.ones(2, np.uint64),
    "score": np.ones(2), "threshold": np.float64(0.1),
}  # fmt: skip
BAD = {
    "huge": HUGE, "objects": ARRAYS["objects"], "nothing": b"", "one": _npy(np.ones(1)), "nan": _npy(np.float64("nan")),
    "integers": _npy(np.ones(2, np.int32)), "table": _npy(np.ones((2, 2), np.uint64)),
}  # fmt: skip


def _index() -> Iterator[Change]:
    for part in ("vectors", "keys", "apart"):
        for name, content in ARRAYS.items():
            yield Change(f"index, {part}: {name}", _mapped(part, content))
    good = {name: _npy(array) for name, array in KEPT.items()}
    archives = {name: content for name, content in ARRAYS.items() if name != "archive"}
    archives |= {
        "compressed": _archive(good, zipfile.ZIP_DEFLATED),
        "no entries": _archive({}),
        "good": _archive(good),
    }
    archives["bomb"] = _archive({**good, "known": HUGE + bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    for entry in KEPT:
        archives |= {f"{entry} {what}": _archive({**good, entry: content}) for what, content in BAD.items()}
    for name, content in archives.items():
        yield Change(f"index, pairs: {name}", _written("index/pairs.embedding.exact.npz", content))


def _mapped(part: str, content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for path in (folder / "index").glob("part-*.npy"):
            kind = {3: "vectors"}.get(path.name.count("."), path.name.split(".")[-2])
            if kind == part:
                path.write_bytes(content)

    return make


# -- what any file may be -----------------------------------------------------------------------------------------


def _written(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def _replaced(pattern: str, by: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for path in sorted(folder.glob(pattern)):
            path.unlink()
            by(path)

    return make


def _flipped(file: str, seed: int) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        draw = np.random.default_rng(seed)
        for _ in range(int(draw.integers(1, 4))):  # mostly in the footer, which says where all else is
            content[-int(draw.integers(1, min(len(content), 3000)))] ^= 1 << int(draw.integers(8))
        (folder / file).write_bytes(content)

    return make


def _any_file() -> Iterator[Change]:
    for pattern in (MANIFEST, SHARD, LISTING, "index/*.npy", "index/*.npz"):
        yield Change(f"{pattern}: a pipe", _replaced(pattern, os.mkfifo))
        yield Change(f"{pattern}: a folder", _replaced(pattern, os.mkdir))
        yield Change(f"{pattern}: a link to a device", _replaced(pattern, lambda p: p.symlink_to("/dev/zero")))
        yield Change(f"{pattern}: a link to itself", _replaced(pattern, lambda p: p.symlink_to(p)))
        yield Change(f"{pattern}: nothing", _replaced(pattern, lambda p: p.write_bytes(b"")))
        yield Change(f"{pattern}: zeros", _replaced(pattern, lambda p: p.write_bytes(bytes(10_000))))
    for file in (SHARD, LISTING):
        for seed in range(60):
            yield Change(f"{file}: bits flipped ({seed})", _flipped(file, seed))


# -- all of them, in a process of its own that may take little memory ----------------------------------------------


def commands(folder: Path, original: Path) -> list[tuple[str, ...]]:
    """What reads a collection whose images are in the folder `original`."""
    return [
        ("search", str(folder), str(original / "3.jpg")),
        ("duplicates", str(folder), "--threshold", "0.5", "--verify"),
        ("outliers", str(folder), "--html", str(folder / "page.html")),
        ("map", str(folder), "-o", str(folder / "map.html"), "--method", "pca"),
    ]


def problem(code: int, err: str) -> str:
    """What is wrong with how a command ended; "" if nothing."""
    named = any(name in err for name in ("manifest.json", "part-", "listings", "index/"))
    if (
        code not in (0, 2, 3)
        or "fault of hierax" in err
        or "Traceback" in err
        or ("is damaged" in err.replace("the model is damaged", "") and not named)
    ):
        return f"{code}: {err}"
    return ""


def main(place: Path) -> None:
    """Tries all changes, and writes what went wrong, last how many were tried."""
    import contextlib
    import resource

    from hierax.cli import main as hierax

    original, tried = whole(place / "whole"), 0
    for command in commands(original, original):  # imports what is to be imported
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            hierax(command)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), resource.RLIM_INFINITY))
    for change in changes():
        print(change.name, end=" ", flush=True)  # the last line if the process dies
        folder = apply(change, original, place / "tampered")
        for command in commands(folder, original):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
                code = hierax(command)
            print(problem(code, err.getvalue()), end="", flush=True)
            tried += 1
        print(flush=True)
        shutil.rmtree(folder)
    print(f"{tried} commands tried")


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))
