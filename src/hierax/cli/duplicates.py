"""`hierax duplicates`: finds images that a collection contains more than once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hierax.cli.collection import add_approximate, add_collection, approximate_setting, likeness, open_index, write_page
from hierax.cli.loading import positive
from hierax.cli.terminal import UserError
from hierax.collection.page_files import noun, rows_of
from hierax.console import ProgressDisplay, quantity, say, tell

if TYPE_CHECKING:
    from hierax.collection.duplicates import Group, Member
    from hierax.collection.index import Index

SUMMARY = "find duplicate and near-duplicate images of a collection"
EPILOG = """Equal files (=) are found by their hash. Near duplicates are found by the cosine similarity of their
vectors. In a collection of videos, = means the same time of the same file. Segments of one video are often
similar. This does not mean that the video is a duplicate.
A low threshold with --verify finds most copies: --threshold 0.7 --verify. It does not find copies that were made
brighter or mirrored.
With --linkage chain, a group contains all images that are connected by similar pairs. Two images of the group can
then be less similar than --threshold. With --linkage first, every image is similar to the first image of its group.
The pairs are stored in COLLECTION/index. The next run compares only new images with all images.
--json prints one object per group (JSON Lines), the largest group first, groups of images of one color last (blank):
  {"size": 2, "members": [{"id": "5f0c…", "path": "a.jpg", "score": 1.0, "exact": true, "blank": false}, …]}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_collection(parser, page="a contact sheet")
    parser.add_argument(
        "--threshold",
        type=likeness,
        default=0.95,
        metavar="S",
        help="minimum cosine similarity of a pair (default: 0.95)",
    )
    parser.add_argument(
        "--whiten", action="store_true", help="whiten the vectors first: for features in which all images are similar"
    )
    parser.add_argument(
        "--components",
        type=positive,
        metavar="N",
        help="number of directions that --whiten keeps (default: all except noise)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the files again, and keep only pairs that agree pixel by pixel"
    )
    parser.add_argument(
        "--linkage",
        choices=("chain", "first"),
        default="chain",
        help="how pairs form a group (default: chain; see below)",
    )
    add_approximate(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.collection.duplicates import duplicates

    if arguments.whiten and arguments.approximate:  # before faiss builds anything
        raise UserError("--approximate is not for --whiten: whitened vectors are compared exactly; leave one out")
    if arguments.components is not None and not arguments.whiten:
        raise UserError("--components is for --whiten; add --whiten, or leave --components out")
    index, unread = open_index(arguments, page=arguments.html, verified=arguments.verify), list[str]()
    with ProgressDisplay("compared") as display:
        groups = duplicates(
            index,
            threshold=arguments.threshold,
            whiten=arguments.whiten,
            components=arguments.components,
            linkage=arguments.linkage,
            verify=arguments.verify,
            fetch=arguments.fetch,
            max_pixels=arguments.max_pixels,
            approximate=approximate_setting(arguments, index),
            on_progress=display.update,
            on_unreadable=unread.append,
        )
    what = noun(index)
    _print(groups, what, as_json=arguments.json)
    said = summary(groups, len(index), what, arguments.threshold)
    say(said)
    if unread:
        lost = f"{quantity(len(unread), what)}, because the file cannot be read or has changed: {unread[0]}"
        say(f"--verify could not compare the pixels of {lost}; copies of the same file are found nevertheless")
    if _looks_overgrouped(groups, len(index)) and not arguments.verify:
        hint = "add --verify, which compares the pixels too, or give a higher --threshold"
        say(f"the largest group is {quantity(len(groups[0].members), what)}: if not all of them are copies, {hint}")
    if arguments.html is not None:
        write_page(_sheet(index, groups, said, what, arguments), arguments.html)
    return 0


def _print(groups: Sequence[Group], what: str, *, as_json: bool) -> None:
    for group in groups:
        if as_json:
            print(json.dumps({"size": len(group.members), "members": [asdict(m) for m in group.members]}))
            continue
        first, *others = group.members
        tell(heading(group, what))
        tell(f"  first     {first.path}")
        for m in others:
            tell(f"  {m.score:.4f}{' =' if m.exact else '  '}  {m.path}")


def _sheet(index: Index, groups: Sequence[Group], said: str, what: str, arguments: argparse.Namespace) -> str:
    from hierax.collection.pages import Entry, Section, contact_sheet

    of = rows_of(index, [member.id for group in groups for member in group.members])
    sections = [
        Section(
            heading(group, what),
            [
                Entry(of[group.members[0].id], "the first"),
                *(Entry(of[m.id], _caption(m, what)) for m in group.members[1:]),
            ],
            copies=what == "image" and not group.blank,
        )
        for group in groups
    ]
    note = (
        f"{said[0].upper()}{said[1:]}. The number below each {what} is its similarity to the first {what} of its group."
    )
    title = f"Duplicates in {index.folders[0].name}"
    return contact_sheet(
        index.folders,
        sections,
        title=title,
        note=note,
        what=what,
        fetch=arguments.fetch,
        max_pixels=arguments.max_pixels,
    )


def heading(group: Group, what: str) -> str:
    """The heading of a group, such as `3 images` or `3 blank images`; for segments also the number of videos."""
    count = quantity(len(group.members), f"blank {what}" if group.blank else what)
    if what != "segment":
        return count
    from hierax.collection.store import MARK

    return f"{count} of {quantity(len({m.path.rpartition(MARK)[0] for m in group.members}), 'video')}"


def summary(groups: Sequence[Group], rows: int, what: str, threshold: float) -> str:
    """The result in one line. It does not call segments redundant, because segments of one video are often similar."""
    blank = sum(len(group.members) for group in groups if group.blank)
    groups = [group for group in groups if not group.blank]
    count = sum(len(group.members) for group in groups)
    more = f"; {quantity(blank, 'blank image')}, of one color" if blank else ""
    if not count:
        return f"no duplicates among {quantity(rows, what)} at a similarity of {threshold} or more{more}"
    found = f"{quantity(len(groups), 'group')} of"
    if what == "segment":
        return f"{found} similar segments: {count:,} of {quantity(rows, what)}"
    left = count - len(groups)
    verb = "is" if left == 1 else "are"
    return f"{found} duplicates: {count:,} of {quantity(rows, what)}; {left:,} {verb} redundant{more}"


def _looks_overgrouped(groups: Sequence[Group], count: int) -> bool:
    """Whether the largest group contains so much of the collection that the threshold is probably too low."""
    members = groups[0].members if groups and not groups[0].blank else ()
    return len(members) > max(20, count // 10) and not all(member.exact for member in members)


def _caption(member: Member, what: str) -> str:
    same = "the same file and time" if what == "segment" else "the same file"
    return f"{member.score:.4f}{f', {same}' if member.exact else ''}"
