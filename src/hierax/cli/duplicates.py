"""`hierax duplicates`: pictures that a collection holds more than once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hierax.cli.loading import positive
from hierax.cli.search import (
    add_approximate,
    add_collection,
    cosine,
    counted,
    open_index,
    ticking,
    way_of,
    write_page,
)
from hierax.cli.terminal import UserError, say

if TYPE_CHECKING:
    from hierax.embedding.duplicates import Group, Member
    from hierax.embedding.index import Index

SUMMARY = "find duplicate and near-duplicate images of a collection"
EPILOG = """Equal files (=) are found by their hash, near duplicates by the cosine similarity of their vectors.
With --linkage chain a group is all that pairs connect, so that its ends may differ more than --threshold says;
with first, every picture is as like the first of its group as asked for.
Pairs that were found are kept in OUT/index: another run compares only new pictures with all.
--json writes one object per group and line, largest first:
  {"size": 2, "members": [{"id": "5f0c…", "path": "a.jpg", "score": 1.0, "exact": true}, …]}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument(
        "--threshold",
        type=cosine,
        default=0.95,
        metavar="S",
        help="minimum similarity of a pair (default: 0.95)",
    )
    parser.add_argument(
        "--whiten", action="store_true", help="compare after whitening: for features in which all look alike"
    )
    parser.add_argument(
        "--components", type=positive, metavar="N", help="directions that --whiten keeps (default: all but noise)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="keep only pairs that agree pixel by pixel; reads the files again"
    )
    parser.add_argument("--linkage", choices=("chain", "first"), default="chain", help="what a group is (see below)")
    add_approximate(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.embedding.duplicates import duplicates
    from hierax.embedding.pages import Entry, Section, contact_sheet

    if arguments.whiten and arguments.approximate:  # before faiss builds anything
        raise UserError("--approximate is not for --whiten: whitened vectors are compared exactly; leave one out")
    if arguments.components is not None and not arguments.whiten:
        raise UserError("--components is for --whiten; add that, or leave it out")
    index, unread = open_index(arguments, page=arguments.html), list[str]()
    groups = duplicates(
        index,
        threshold=arguments.threshold,
        whiten=arguments.whiten,
        components=arguments.components,
        linkage=arguments.linkage,
        verify=arguments.verify,
        approximate=way_of(arguments, index),
        on_progress=ticking(),
        on_unreadable=unread.append,
    )
    for group in groups:
        if arguments.json:
            print(json.dumps({"size": len(group.members), "members": [asdict(m) for m in group.members]}))
        else:
            print(f"{len(group.members)} pictures")
            first, *others = group.members
            print(f"  first     {first.path}")
            print(*(f"  {m.score:.4f}{' =' if m.exact else '  '}  {m.path}" for m in others), sep="\n")
    said = _summary(groups, index, arguments.threshold)
    say(said)
    if unread:
        lost = counted(len(unread), "picture")
        say(f"{lost} cannot be read any more, which --verify counts as different, such as {unread[0]}")
    if _is_vague(groups, len(index)):
        hint = "features in which all look alike need --whiten, a higher --threshold, or --verify"
        say(f"the largest group is {counted(len(groups[0].members), 'picture')}: {hint}")
    if arguments.html is not None:
        sections = [
            Section(
                counted(len(group.members), "picture"),
                [Entry(group.members[0].path, "the first"), *(Entry(m.path, _caption(m)) for m in group.members[1:])],
            )
            for group in groups
        ]
        note = f"{said[0].upper()}{said[1:]}. Below each its similarity to the first of its group."
        sheet = contact_sheet(index.folders, sections, title=f"Duplicates in {index.folders[0].name}", note=note)
        write_page(sheet, arguments.html)
    return 0


def _summary(groups: Sequence[Group], index: Index, threshold: float) -> str:
    count = sum(len(group.members) for group in groups)
    if not count:
        return f"no duplicates among {counted(len(index), 'picture')} at a similarity of {threshold} or more"
    found = f"{count:,} of {counted(len(index), 'picture')} are in {counted(len(groups), 'group')}"
    return f"{found}; {count - len(groups):,} could go"


def _is_vague(groups: Sequence[Group], count: int) -> bool:
    """Whether one group holds so much of a collection that it hardly is one picture."""
    members = groups[0].members if groups else ()
    return len(members) > max(20, count // 10) and not all(member.exact for member in members)


def _caption(member: Member) -> str:
    return f"{member.score:.4f}{', the same file' if member.exact else ''}"
