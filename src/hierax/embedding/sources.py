"""Lists the sources to embed: files, folders, patterns, lists, shards, tables and URLs."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hierax.collection.source import Source, table_split
from hierax.collection.store import arrow, path_text
from hierax.collection.urls import check_client, urls_at
from hierax.data.file_lists import is_list_of_files, listed_paths, resolve_entry
from hierax.data.list_rows import EmptyList
from hierax.data.tables import open_tables
from hierax.data.tar import COMPRESSED, members_of
from hierax.extras import MissingPackage
from hierax.notices import LeftOut, notify
from hierax.processing import Preprocessing
from hierax.processing.paths import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    NotRegularError,
    check_no_collection,
    find_files,
    matches,
    nothing_in,
    opened_regular,
    suffix_of,
)

_PICTURES, _VIDEOS = IMAGE_SUFFIXES | {".tar"}, VIDEO_SUFFIXES | {".tar"}
_LISTS = (".txt", ".csv", ".tsv", ".jsonl")
_COLUMNS = (".csv", ".tsv", ".jsonl", ".parquet")
_SAVED = ("dataset_dict.json", "dataset_info.json")


class NoSourcesError(ValueError):
    """An input matches nothing.

    Attributes:
        given: the input.
    """

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(f"{given}: {problem}")
        self.given = given


def absolute_source(given: str) -> str:
    """An input as an absolute path; URLs are not changed."""
    return os.path.abspath(given) if _is_local(given) else given


def _is_local(given: str) -> bool:
    return "://" not in given and not given.startswith("hub:")


def missing_inputs(inputs: Iterable[str], *, patterns: bool = False) -> list[str]:
    """The inputs whose file or folder does not exist. With `patterns` also inputs that may be patterns, because they
    contain one of `*?[`. No folder is listed.
    """
    missing = (given for given in inputs if _is_local(given) and not os.path.exists(given))
    return [given for given in missing if patterns or not glob.has_magic(given)]


def has_at_most(inputs: Sequence[str], most: int) -> bool:
    """Whether the inputs contain at most `most` image files and no other sources. It stops after `most` files."""

    def counted() -> Iterator[str]:
        for given in inputs:
            folder = os.path.isdir(given) and not _is_saved(given)
            yield from _files_below(given, _PICTURES) if folder else [given]

    found = list(islice(counted(), most + 1))
    return len(found) <= most and all(_is_image(path) and os.path.isfile(path) for path in found)


def list_sources(
    inputs: Sequence[str], *, record: Preprocessing | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Source]:
    """The sources that the inputs name, each once, in the order of the inputs; sources of a folder are sorted by
    name. If `record` is one of clips, the sources are the windows of videos. A `Notice` reports what is left out:
    members of shards and files of other kinds, and entries of a list that are named before.

    Args:
        inputs: any of these:

            - files;
            - folders: images and `.tar` shards in all their subfolders (if there are none, `.parquet` files and
              arrays). Hidden files are skipped. A subfolder that cannot be opened is a source that cannot be read;
            - patterns (`*`, `?`, `[…]`, `**`);
            - lists of paths (`.txt` with one path per line; `.csv`, `.parquet` with a column named path, file, image,
              url …, see `hierax.data.list_rows.PATHS`). Paths are relative to the folder of the list;
            - `.tar` shards;
            - tables with a column of images (`.parquet`, a folder that `datasets` saved, `hub:ID`). Tables contain no
              videos;
            - URLs that fsspec can open (`s3://…`).
        record: the preprocessing record of the model; None: images.
        columns: {"path": name} if the column of paths in lists, or of images in tables, has another name.

    Raises:
        NoSourcesError: an input matches nothing; the message names it.
        ValueError: an input cannot be read; the message names it.
        ImportError: a package to read an input is missing; the message names the extra.
    """
    seen: set[str] = set()
    clips = record is not None and record.num_frames is not None
    for given in inputs:
        _check_kind(given, clips=clips)
        count = again = 0
        left = LeftOut(given)
        found = _sources(given, _Kinds(_VIDEOS if clips else _PICTURES, left, columns))
        if clips:
            from hierax.embedding.clips import expand_windows
            from hierax.processing.sampling import sampling_of

            assert record is not None
            found = expand_windows(found, sampling_of(record))
        for source in found:
            count += 1
            if source.id in seen:
                again += 1
            else:
                seen.add(source.id)
                yield source
        if not count:
            raise NoSourcesError(given, _nothing_in(given, left, clips=clips))
        if again and os.path.splitext(given)[1].lower() in (*_LISTS, ".parquet"):
            entries = "1 entry is" if again == 1 else f"{again:,} entries are"
            notify(f"{given}: {entries} named before; a collection has each source once")
        left.tell()


def check_columns(inputs: Iterable[str], columns: Mapping[str, str] | None) -> None:
    """Raises `ValueError` if names of columns are given, and no input has columns."""
    if columns and not any(_has_columns(given) for given in inputs):
        raise ValueError(
            f"columns names {', '.join(columns)}, but none of the sources has columns; expected a list (.csv, "
            ".tsv, .jsonl), a parquet file or hub:ID"
        )


def _has_columns(given: str) -> bool:
    """Whether a source has columns that can be named. Folders are listed up to their first image."""
    if os.path.isdir(given):
        return _is_saved(given) or suffix_of(next(_files_below(given, _PICTURES | _VIDEOS), "")) == ".parquet"
    if _is_local(given) and not os.path.exists(given) and glob.has_magic(given):
        return any(_has_columns(match) for match in matches(given))
    return given.startswith("hub:") or suffix_of(given) in _COLUMNS


@dataclass(frozen=True)
class _Kinds:
    """The kind of files to list.

    Attributes:
        suffixes: the suffixes of the files.
        left: counts files of other kinds.
        columns: see `list_sources`.
    """

    suffixes: Collection[str]
    left: LeftOut
    columns: Mapping[str, str] | None

    @property
    def videos(self) -> bool:
        """Whether the sources are videos."""
        return self.suffixes is _VIDEOS


def check_input(given: str) -> None:
    """Raises `NoSourcesError` for an empty input, and for an archive that must be unpacked first."""
    if not given:
        raise NoSourcesError("''", "an empty source; expected a file, folder, pattern, list or URL")
    if given.lower().endswith(COMPRESSED) and _is_local(given):
        raise NoSourcesError(given, "a compressed archive; unpack it into a folder, or into a plain .tar file")


def _check_kind(given: str, *, clips: bool) -> None:
    """Raises `ValueError` for a video if the model takes images, and for an image if it takes clips."""
    check_input(given)
    suffix = os.path.splitext(given)[1].lower()
    if suffix in VIDEO_SUFFIXES and not clips:
        raise ValueError(f"{given} is a video and this model takes images; a model of clips takes videos")
    if suffix in IMAGE_SUFFIXES and clips:
        raise ValueError(f"{given} is an image and this model takes clips; expected a video")


def _nothing_in(given: str, left: LeftOut, *, clips: bool) -> str:
    if _is_local(given) and not os.path.exists(given):
        return "no file matches this pattern"
    if os.path.isdir(given):
        others = ".tar shards" if clips else ".tar shards, .parquet files or .npy arrays"
        return nothing_in(left, videos=clips, others=others)
    return nothing_in(left, place="it", videos=clips)


def _sources(given: str, kinds: _Kinds) -> Iterator[Source]:
    if given.startswith("hub:"):
        yield from _rows_of_tables(given, [], kinds)
    elif "://" in given:
        yield from _of_url(given, kinds)
    elif os.path.isdir(given):
        check_no_collection(given)
        if _is_saved(given):
            yield from _rows_of_tables(os.path.abspath(given), [], kinds)
        else:
            for path in sorted(_files_below(given, kinds.suffixes, kinds.left)):
                yield from _of_file(path, kinds)
    elif os.path.exists(given):
        yield from _of_file(os.path.abspath(given), kinds)
    elif glob.has_magic(given):
        for match in matches(given):
            if os.path.isdir(match):
                found = sorted(_files_below(match, kinds.suffixes, kinds.left))
            else:
                found = [os.path.abspath(match)]
            for path in found:
                yield from _of_file(path, kinds)
    else:
        raise NoSourcesError(given, "no such file or folder")


def _is_saved(given: str) -> bool:
    """Whether a folder was saved by `datasets`."""
    return any(os.path.exists(os.path.join(given, name)) for name in _SAVED)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _files_below(folder: str, suffixes: Collection[str], left: LeftOut | None = None) -> Iterator[str]:
    closed: list[OSError] = []
    arrays = () if suffixes is _VIDEOS else ARRAY_SUFFIXES | {".parquet"}
    yield from find_files(os.path.abspath(folder), suffixes, otherwise=arrays, left=left, failed=closed.append)
    yield from (
        error.filename for error in closed
    )  # reading them as files gives an error; without this, they would be missing without a message


def _of_file(path: str, kinds: _Kinds) -> Iterator[Source]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".tar":
        _check_name(path)
        for member in members_of(Path(path), kinds.left, videos=kinds.videos):
            yield Source(f"{path}::{member.name}", "tar", path, member.offset, member.size)
    elif suffix in _LISTS or (suffix == ".parquet" and _is_list(path, kinds)):
        yield from _of_list(path, kinds)
    elif suffix == ".parquet":
        _check_name(path)
        yield from _rows_of_tables(path, [Path(path)], kinds)
    else:
        yield Source(path)


def _check_name(path: str) -> None:
    """Raises `ValueError` if the path of a shard or table is not valid text: listings store it as text."""
    shown = path_text(path)
    if shown != path:
        raise ValueError(f"{shown}: its path is not valid UTF-8; rename it (only images may have such a path)")


def _is_list(path: str, kinds: _Kinds) -> bool:
    """Whether a parquet file contains paths of images, not images."""
    pa = arrow()
    try:
        with opened_regular(path) as file:
            pa.parquet.read_schema(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as parquet: {error}") from None
    return is_list_of_files(Path(path), columns=kinds.columns)


def _of_list(path: str, kinds: _Kinds) -> Iterator[Source]:
    folder = os.path.dirname(path)
    try:
        with opened_regular(path):
            pass
        for entry in listed_paths(Path(path), columns=kinds.columns):
            if "://" in entry:
                check_client(entry.strip())
                yield Source(entry.strip(), "url")
            else:
                yield Source(os.path.abspath(resolve_entry(folder, entry)))
    except EmptyList as error:
        raise NoSourcesError(path, error.problem) from None
    except NotRegularError as error:
        raise ValueError(f"{path}: {error}") from None
    except MissingPackage as error:
        raise MissingPackage(f"{path}: {error}", name=error.name) from None


def _rows_of_tables(name: str, files: Sequence[Path], kinds: _Kinds) -> Iterator[Source]:
    column = (kinds.columns or {}).get("path")
    given = None if column is None else {"path": column}
    for split, table in open_tables(name, files, labels=False, columns=given).items():
        container = table_split(name, split, column)
        for row in range(len(table)):
            yield Source(f"{name}#{split}[{row}]", "table", container, row)


def _of_url(given: str, kinds: _Kinds) -> Iterator[Source]:
    yield from (Source(url, "url") for url in urls_at(given, kinds.suffixes))
