"""A disk that forgets: records what a program does to the files below a folder, and tells what a power cut could leave.

A file whose content was not synced is empty afterwards. A name that was made, moved or removed is as before unless its
folder was synced, each such change for itself, in any order. This is less than most file systems promise.
"""

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tree = dict[str, bytes | None]
"""Content by path; None is a folder."""
_EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "open")
_recording: "list[Disk]" = []


@dataclass(eq=False)
class _Node:
    """A file or a folder: `live` is its content now, `synced` that on the disk; entries of folders likewise."""

    folder: bool
    live: bytes = b""
    synced: bytes = b""
    stamp: Any = None
    now: "dict[str, _Node]" = field(default_factory=dict)
    entries: "dict[str, _Node]" = field(default_factory=dict)
    pending: "list[_Change]" = field(default_factory=list)


_Change = list[tuple[_Node, str, _Node | None]]
"""Names that a folder gains or loses (None), in one step."""


class Disk:
    """What happens below `root` while `recording`, and the states that a kill or a power cut leaves meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _Node(True)
        self.nodes: dict[int, _Node] = {root.stat().st_ino: self.top}
        self.events = 0
        self._found: dict[tuple[Any, ...], Tree] = {}
        self._busy, self._lock = False, threading.RLock()
        self._look()
        for node in self.nodes.values():  # what is there at first is on the disk
            node.entries, node.synced, node.pending = dict(node.now), node.live, []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Takes part in every operation on files of this process."""
        fsync = os.fsync
        _recording.append(self)
        os.fsync = self._fsync(fsync)
        try:
            yield
        finally:
            os.fsync = fsync
            _recording.remove(self)
            self.event()

    def states(self) -> list[Tree]:
        """All different states that were possible at some time."""
        return list(self._found.values())

    def last(self) -> list[Tree]:
        """The states that are possible now."""
        before, self._found = self._found, {}
        self.event()
        self._found, now = before, self.states()
        return now

    def event(self) -> None:
        """Notes the state before the next operation."""
        with self._lock:  # of several threads, each waits for its turn
            if self._busy:  # an operation of this class itself
                return
            self._busy = True
            try:
                self._look()
                self._note()
            finally:
                self._busy = False

    def _fsync(self, fsync: Any) -> Any:
        def synced(handle: Any) -> None:
            fsync(handle)
            number = handle if isinstance(handle, int) else handle.fileno()
            with self._lock:
                self.event()
                node = self.nodes.get(os.fstat(number).st_ino)
                if node is None:
                    return
                if node.folder:
                    for change in list(node.pending):
                        _settle(change)
                node.synced = node.live
                self.event()

        return synced

    def _look(self) -> None:
        """Finds the changes since the last look."""
        seen: dict[int, _Node] = {self.root.stat().st_ino: self.top}
        found: dict[_Node, dict[str, _Node]] = {}
        self._scan(self.root, self.top, seen, found)
        lost = {(node, name): there for node, names in found.items() for name, there in node.now.items()
                if names.get(name) is not there}  # fmt: skip
        exchanged: set[tuple[_Node, str]] = set()
        for node, names in found.items():
            for name, there in names.items():
                before = node.now.get(name)
                if before is there or (node, name) in exchanged:
                    continue
                change: _Change = [(node, name, there)]
                for other, place in [place for place, moved in lost.items() if moved is there]:
                    if before is not None and found[other].get(place) is before:  # two names in one step
                        exchanged.add((other, place))
                        del lost[other, place]
                        change.append((other, place, before))
                lost.pop((node, name), None)  # replaced
                for place in [place for place, moved in lost.items() if moved is there]:
                    del lost[place]
                    change.append((*place, None))
                _add(change)
        for place in lost:
            _add([(*place, None)])
        for node, names in found.items():
            node.now = names
        self.nodes = seen

    def _scan(self, path: Path, node: _Node, seen: dict[int, _Node], found: dict[_Node, dict[str, _Node]]) -> None:
        found[node] = names = {}
        for entry in sorted(os.scandir(path), key=lambda e: e.name):
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            folder = stat.S_ISDIR(info.st_mode)
            there = seen.get(info.st_ino) or self.nodes.get(info.st_ino)
            if there is None or there.folder != folder:
                there = _Node(folder)
            seen[info.st_ino] = names[entry.name] = there
            if folder:
                self._scan(Path(entry.path), there, seen, found)
            elif there.stamp != (stamp := (info.st_size, info.st_mtime_ns)):
                there.live, there.stamp = Path(entry.path).read_bytes(), stamp

    def _note(self) -> None:
        self.events += 1
        pending: list[_Change] = []
        _collect(self.top, pending, set())
        self._keep(_tree(self.top, killed=True))
        choices = [[], pending]
        if len(pending) > 1:
            choices += [[one] for one in pending] + [[c for c in pending if c is not one] for one in pending]
        for chosen in choices:
            self._keep(_tree(self.top, applied=chosen))

    def _keep(self, tree: Tree) -> None:
        key = tuple((path, hash(content)) for path, content in sorted(tree.items()))
        self._found.setdefault(key, tree)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recording or event not in _EVENTS:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    for disk in _recording:
        disk.event()


sys.addaudithook(_hook)


def _add(change: _Change) -> None:
    for node in {id(node): node for node, *_ in change}.values():
        node.pending.append(change)


def _settle(change: _Change) -> None:
    """The change is on the disk."""
    for node, name, there in change:
        _apply(node.entries, name, there)
        if change in node.pending:
            node.pending.remove(change)


def _apply(entries: dict[str, _Node], name: str, there: _Node | None) -> None:
    if there is None:
        entries.pop(name, None)
    else:
        entries[name] = there


def _collect(node: _Node, found: list[_Change], seen: set[int]) -> None:
    """All changes below a folder that are not on the disk, each once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    found += [change for change in node.pending if not any(change is other for other in found)]
    for there in {**node.entries, **node.now}.values():
        if there.folder:
            _collect(there, found, seen)


def _tree(top: _Node, *, killed: bool = False, applied: list[_Change] | None = None) -> Tree:
    """The files of a state: all that was done where a process was `killed`, else what is on the disk, with the changes
    that are `applied`.
    """
    tree: Tree = {}

    def walk(node: _Node, path: str) -> None:
        names = dict(node.now if killed else node.entries)
        for change in () if killed else node.pending:
            if any(change is one for one in applied or ()):
                for where, name, there in change:
                    if where is node:
                        _apply(names, name, there)
        for name, there in names.items():
            below = f"{path}{name}"
            tree[below] = None if there.folder else there.live if killed else there.synced
            if there.folder:
                walk(there, f"{below}/")

    walk(top, "")
    return tree


def restore(tree: Tree, folder: Path) -> Path:
    """Writes a state into a new folder; returns it."""
    folder.mkdir()
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_bytes(content)
    return folder
