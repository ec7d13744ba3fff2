"""The steps before features are computed: a call locks the folder, writes the manifest, and lists the sources. Several
calls may work on one collection; they take turns with these steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import hierax
from hierax.atomic import PARTS, make_folder, name_in_errors
from hierax.collection.listing import Listing, listing_path, listings
from hierax.collection.store import DATA, LISTINGS, MANIFEST, CollectionError, Manifest
from hierax.embedding.extractor import FeatureExtractor
from hierax.embedding.sources import check_columns, list_sources
from hierax.embedding.update import changed_sources, inputs_left
from hierax.locking import LOCK, Lock, hold_lock
from hierax.processing import Preprocessing

WRITERS = ".writers"
"""The lock file that all calls share while they write to a collection."""

_TRIES = 100


class Claim:
    """The folder of a collection that is locked while a call writes to it; see `claim_folder`."""

    def __init__(self, folder: Path, lock: Lock, on_wait: Callable[[str], object] | None) -> None:
        self.folder, self._lock, self._on_wait = folder, lock, on_wait

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Prevents other calls from changing the manifest, the listings and the marks of rows."""
        with hold_lock(self.folder / LOCK, wait=True, on_wait=self._on_wait):
            yield

    def check(self) -> None:
        """Raises `CollectionError` if the folder no longer exists, or was replaced by another one."""
        if not self._lock.stands():
            raise CollectionError(
                f"{self.folder} was removed or moved while features were written; the same command creates it again"
            )

    def remove_leftovers(self) -> None:
        """Deletes unfinished files of killed processes, unless other calls are writing."""
        if self._lock.is_alone():
            for place in (self.folder, self.folder / LISTINGS, self.folder / DATA):
                for part in place.glob(PARTS):
                    part.unlink(missing_ok=True)


@contextlib.contextmanager
def claim_folder(folder: Path, on_wait: Callable[[str], object] | None = None) -> Iterator[Claim]:
    """Locks a folder for a call that writes to it. It is created if missing, and deleted again if nothing was written.

    Args:
        folder: the folder of the collection.
        on_wait: called with the name of the process that this call waits for.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, missing)
        yield Claim(folder, _writer(folder, stack), on_wait)


def _writer(folder: Path, stack: contextlib.ExitStack) -> Lock:
    for attempt in range(_TRIES):
        with name_in_errors(folder, folder):
            make_folder(folder)
        try:
            return stack.enter_context(hold_lock(folder / WRITERS, shared=True, wait=True))
        except FileNotFoundError:  # another call has failed, and has just deleted the folder that it had created
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("not reached")


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # a folder is not empty
        for folder in folders:
            folder.rmdir()


def check_folder(folder: Path) -> None:
    """Raises `CollectionError` if the folder contains other files. Hidden files do not count: they are locks and
    unfinished files of killed processes.
    """
    if folder.exists() and not folder.is_dir():
        raise CollectionError(f"{folder} is a file; expected a folder")
    if (folder / MANIFEST).exists() or not folder.exists():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise CollectionError(
            f"{folder} is not empty and contains no collection ({MANIFEST} is missing); choose another folder"
        )


def write_plan(
    folder: Path,
    extractor: FeatureExtractor,
    inputs: Sequence[str],
    *,
    update: bool,
    half: bool,
    batch: int,
    block: int,
    list_columns: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes the manifest and the listings, while it is the turn of this call. Errors of sources are raised before.

    Raises:
        ValueError, CollectionError, ImportError, OSError: see `embed`.
    """
    check_folder(folder)
    manifest = _manifest(folder, extractor, inputs, half=half, batch=batch, block=block)
    known = set(manifest.inputs)
    new = [given for given in inputs if given not in known]
    if new and not update:
        raise CollectionError(f"{new[0]} is not among the sources of {folder}; update adds it (--update)")
    if new:
        manifest = replace(manifest, inputs=(*manifest.inputs, *new))
    if list_columns is not None:
        check_columns(manifest.inputs, list_columns)
        if listings(folder) and not update and dict(list_columns) != manifest.list_columns:
            was = ", ".join(f"{k}={v}" for k, v in manifest.list_columns.items()) or "not named"
            raise CollectionError(f"{folder} was listed with other columns ({was}); update lists again (--update)")
        manifest = replace(manifest, list_columns=dict(list_columns))
    _list(folder, manifest, extractor.record, update=update)
    make_folder(folder / DATA)
    return manifest


def _manifest(
    folder: Path, extractor: FeatureExtractor, inputs: Sequence[str], *, half: bool, batch: int, block: int
) -> Manifest:
    """The manifest of the collection; a new one if there is none.

    Raises:
        CollectionError: the collection has other weights or settings.
    """
    before = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    manifest = Manifest(
        model=extractor.name,
        weights=extractor.weights,
        config=extractor.config.to_dict(),
        preprocessing=extractor.record.to_dict(),
        columns=extractor.columns,
        l2=extractor.l2,
        dtype="float16" if half else "float32",
        precision=extractor.precision,
        block=before.block if before else block,
        batch=before.batch if before else batch,
        inputs=before.inputs if before else tuple(inputs),
        created=before.created if before else datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=before.version if before else hierax.__version__,
    )
    if before is not None:
        before.check_same(manifest, folder=folder)
        return before
    if not inputs:
        raise ValueError(f"{folder} is a new collection; expected sources for it")
    return manifest


def _list(folder: Path, manifest: Manifest, record: Preprocessing, *, update: bool) -> None:
    if not listings(folder):
        listing = Listing(list_sources(manifest.inputs, record=record, columns=manifest.list_columns))
        manifest.write(folder)
        listing.write(listing_path(folder, 0))
    elif update:
        left = inputs_left(folder, manifest)
        listed = list_sources(left, record=record, columns=manifest.list_columns)
        found = changed_sources(folder, manifest, listed)
        manifest.write(folder)
        if found:
            Listing(found).write(listing_path(folder, len(listings(folder))))
