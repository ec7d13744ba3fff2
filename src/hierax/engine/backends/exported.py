"""A folder that `hierax export` wrote, and the backend that runs it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierax.checkpoint.files import weights_in
from hierax.digests import file_digest
from hierax.engine.export.formats import FORMATS, open_runner
from hierax.engine.export.parity import ParityReport
from hierax.engine.hardware import Choice
from hierax.engine.pool import Runner, Shape
from hierax.engine.signature import Signature
from hierax.folders import restore_folder
from hierax.model.config import HieraConfig
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS
from hierax.processing import Preprocessing
from hierax.processing.record import FILE_NAME

RECORD = "export.json"
VERSION = 1
"""Version of the record; folders of a later version are refused."""
_BESIDE = (RECORD, FILE_NAME)  # these do not change what the model computes
_DEEPEST = 3  # folders between the file and the record, in any layout
_SUFFIXES = {Path(kind.file).suffix for kind in FORMATS.values()}


def file_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file in a folder and below it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in paths
    }


def recorded_files(folder: Path) -> set[str]:
    """Files of an export, as its record names them; empty if the record is damaged."""
    try:
        return set(json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def export_preprocessing(source: str | os.PathLike[str]) -> Preprocessing | None:
    """The preprocessing of the export that `source` names by its folder or its file; None if it has none. Checks
    nothing else: opening the export raises the other errors.
    """
    path = Path(source)
    places = (path, *path.parents[:_DEEPEST])
    folder = next((place for place in places if (place / RECORD).is_file()), path if path.is_dir() else path.parent)
    files = (folder / name for name in sorted({FILE_NAME, *recorded_files(folder)}) if Path(name).name == FILE_NAME)
    found = next((file for file in files if file.is_file()), None)
    return Preprocessing.read(found) if found is not None else None


def is_export(source: object) -> bool:
    """Whether `source` names a folder that `hierax export` wrote, a file of its formats, or a folder without weights
    that holds one. Opens nothing, but brings back an export that was lost when its replacement was interrupted.
    """
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source)
    with contextlib.suppress(OSError):  # a folder that cannot be read is not an export
        restore_folder(path.parent)
        restore_folder(path)
    return (path / RECORD).is_file() or (path.suffix in _SUFFIXES and path.is_file()) or _network_in(path) is not None


def _network_in(folder: Path) -> Path | None:
    """A file of an export's format in a folder without a checkpoint."""
    try:
        if not folder.is_dir() or weights_in(folder) is not None:
            return None
        return next((path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES and path.is_file()), None)
    except OSError:  # a folder that cannot be read is not an export
        return None


def find_export(source: object) -> Exported | None:
    """The export that `source` names by its folder or by its file; None if it names something else.

    Raises:
        ValueError: the folder is damaged, or the file is not in the folder of its export; names the file.
    """
    if not isinstance(source, (str, os.PathLike)) or not is_export(source):
        return None
    path = Path(source)
    if path.is_dir():
        if (path / RECORD).is_file():
            return Exported.open(path)
        path = _network_in(path) or path
    folder = next((place for place in path.parents[:_DEEPEST] if (place / RECORD).is_file()), None)
    if folder is None:
        raise ValueError(
            f"{path}: is not an export of hierax (no {RECORD} beside it); expected the folder that hierax export "
            "wrote, or a checkpoint"
        )
    found = Exported.open(folder)
    if path != found.path:
        raise ValueError(f"{path}: is not the file of this export; expected {found.path}")
    return found


@dataclass(frozen=True)
class Exported:
    """An exported model, as `export.json` describes it.

    Attributes:
        config: with the exported size as `image_size`.
        batch: images per call of the file, or None for any number.
        kept: visible mask units, for an MAE model.
        report: the comparison with the model that was exported.
        files: sizes and digests of the files, by name.
        source: the origin of the weights, or None.
        layout: the layout of the folder (a key of `LAYOUTS`), or None.
        file: the place of the exported file in the folder; None: that of `FORMATS`.
    """

    folder: Path
    format: str
    precision: str
    task: str
    outputs: tuple[str, ...]
    config: HieraConfig
    batch: int | None
    kept: int | None
    report: ParityReport
    files: dict[str, dict[str, Any]]
    source: str | None = None
    layout: str | None = None
    file: str | None = None

    @classmethod
    def open(cls, folder: Path) -> Exported:
        """Reads a folder and checks that its files are unchanged.

        Raises:
            ValueError: a file is missing or altered; names the file.
        """
        path = folder / RECORD
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["version"]
            found = cls(
                folder=folder,
                format=values["format"],
                precision=values["precision"],
                task=values["task"],
                outputs=tuple(values["outputs"]),
                config=HieraConfig.from_dict(values["config"]),
                batch=values["batch"],
                kept=values["kept"],
                report=ParityReport.from_dict(values["parity"]),
                files=dict(values["files"]),
                source=values.get("weights", {}).get("source"),
                layout=values.get("layout"),
                file=values.get("file"),
            )
            for name, value, known in (("format", found.format, FORMATS), ("task", found.task, TASKS)):
                if value not in known:
                    raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
            if found.file is not None and found.file not in found.files:
                raise ValueError(f"file is {found.file!r}; expected one of {', '.join(found.files)}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: is not a record of an export ({type(error).__name__}: {error})") from None
        if version > VERSION:
            raise ValueError(f"{path}: version {version} was written by a later hierax; this one reads {VERSION}")
        found._check_files()
        return found

    @property
    def path(self) -> Path:
        """The exported file."""
        return self.folder / (self.file or FORMATS[self.format].file)

    @property
    def digest(self) -> str:
        """Digest of the file and its weights: two exports of one checkpoint are different models."""
        kept = {name: entry["sha256"] for name, entry in sorted(self.files.items()) if Path(name).name not in _BESIDE}
        return hashlib.sha256(json.dumps([self.format, kept]).encode()).hexdigest()

    def describe(self) -> str:
        """A sentence with its format, its precision, and the comparison with its checkpoint."""
        return f"an export ({self.format}, {self.precision}); beside its checkpoint: {self.report}"

    def _check_files(self) -> None:
        for name, record in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{path}: is missing; export the model again")
            if path.stat().st_size != record["bytes"] or file_digest(path) != record["sha256"]:
                raise ValueError(f"{path}: is not the exported file (truncated or altered); export the model again")

    def model(self) -> Pretrained:
        """The model without weights, on the meta device, for its configuration and checks."""
        with torch.device("meta"):
            model = TASKS[self.task].cls(self.config).eval()
        if Signature.of(model).outputs != self.outputs:
            raise ValueError(
                f"{self.folder / RECORD}: outputs are {', '.join(self.outputs)}, which task {self.task!r} does not have"
            )
        model.preprocessing = export_preprocessing(self.folder)
        return model

    def choice(
        self,
        *,
        device: str | torch.device,
        precision: str,
        backend: str,
        task: str | None,
        hidden_states: bool,
        out_features: Sequence[str] | None,
    ) -> Choice:
        """The device, precision and backend with which the export runs.

        Raises:
            ValueError: an argument does not match the export.
        """
        own = FORMATS[self.format].backend
        for name, asked, allowed in (
            ("device", str(device), ("auto", "cpu")),
            ("precision", precision, ("auto", self.precision)),
            ("backend", backend, ("auto", own)),
            ("task", task, (None, self.task)),
            ("hidden_states", hidden_states, (False,)),
            ("out_features", out_features and tuple(out_features), (None, self.config.out_features)),
        ):
            if asked not in allowed:
                raise ValueError(
                    f"{name} is {asked!r}; {self.folder} is an export for the CPU ({self.format}, {self.precision}, "
                    f"{self.task}); expected {', '.join(map(str, allowed))}"
                )
        return Choice(torch.device("cpu"), self.precision, own)

    def runner(self, *, threads: int | None) -> Runner:
        """The runner of the file, for any number of images of its size."""
        return open_runner(self.format, self.path, precision=self.precision, threads=threads, batch=self.batch)


class ExportedBackend:
    """An export as the backend of an engine: one size, and for an MAE model one number of visible mask units."""

    batched = False

    def __init__(self, exported: Exported, *, threads: int | None) -> None:
        self._exported, self._threads = exported, threads

    def runner(self, shape: Shape) -> Runner:
        """The runner of the exported size.

        Raises:
            ValueError: the size or the number of visible mask units is another; the message says which were exported.
        """
        folder, size, kept = self._exported.folder, self._exported.config.image_size, self._exported.kept
        if shape.size != size:
            ours, theirs = ("x".join(map(str, axes)) for axes in (size, shape.size))
            raise ValueError(f"pixels are {theirs}; {folder} was exported for {ours} alone")
        if shape.kept != kept:
            raise ValueError(f"{shape.kept} mask units are visible; {folder} was exported for {kept} alone")
        return self._exported.runner(threads=self._threads)

    def close(self) -> None:
        """See `Backend`."""
