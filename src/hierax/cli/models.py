"""`hierax models`: lists the published checkpoints and the variants that can be built."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hierax.cli.outputs import add_json

if TYPE_CHECKING:
    from hierax.checkpoint.records import CheckpointRecord

SUMMARY = "list checkpoints with their licenses, and architectures"
EPILOG = """The ids hierax/... are part of the package and need no network. The others are on the Hugging Face Hub.
Checkpoints are grouped by their weights. All ids below one name have the same weights, in the formats of
different libraries. --model accepts the name or any of the ids. The column top-1 is the published accuracy on
ImageNet-1k (for videos: on Kinetics-400). The note states accuracies on other categories.
Variants are architectures: hierax.create_model(NAME) creates one with random weights."""

_TASKS = ("classification", "features", "mae", "backbone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--task", choices=_TASKS, help="only checkpoints for this task")
    parser.add_argument("--license", metavar="L", help="only checkpoints under this license, such as Apache-2.0")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    found = models(task=arguments.task, license=arguments.license)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    from hierax.checkpoint import list_checkpoints

    width = shutil.get_terminal_size((160, 24)).columns
    records = list_checkpoints(task=arguments.task, license=arguments.license)
    for line in (*checkpoint_lines(records, width=width), *variant_lines(found["variants"])):
        print(line)
    return 0


def models(*, task: str | None = None, license: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The checkpoints that match the filters, and all variants.

    Returns:
        `checkpoints`: the fields and metrics of each record. `variants`: the name and architecture of each variant.

    Raises:
        ValueError: a filter has a value that no checkpoint has; the message lists the possible values.
    """
    from hierax.checkpoint import list_checkpoints
    from hierax.model.config import list_models, variant_config

    fields = ("image_size", "embed_dim", "depths", "num_heads", "position_embedding")
    variants = [
        {"name": name, **{field: getattr(config, field) for field in fields}}
        for name, config in ((name, variant_config(name)) for name in list_models())
    ]
    records = list_checkpoints(task=task, license=license)
    checkpoints = [{**dataclasses.asdict(record), "metrics": dict(record.metrics)} for record in records]
    return {"checkpoints": checkpoints, "variants": variants}


def checkpoint_lines(records: Sequence[CheckpointRecord], *, width: int) -> Iterator[str]:
    """The lines of the table of checkpoints, cut to `width` characters. The most permissive license comes first."""
    for license in sorted({record.license for record in records}, key=lambda name: ("-NC" in name, name)):
        allowed = "not for commercial use" if "-NC" in license else "also for commercial use"
        yield f"Checkpoints under {license} ({allowed})"
        yield ""
        yield f"  {'':56}  {'task':14}  {'parameters':>10}  {'top-1':>6}"
        mine = [record for record in records if record.license == license]
        for name in dict.fromkeys(record.name for record in mine):  # in the order of the table: small models first
            group = [record for record in mine if record.name == name]
            yield f"  {name}{_mark(group[0])}"
            yield from (_clip(_row(record), width) for record in group)
        yield ""


def _mark(record: CheckpointRecord) -> str:
    return " (comes with hierax)" if record.bundled else " (clips)" if record.preprocessing == "kinetics" else ""


def _row(record: CheckpointRecord) -> str:
    count = f"{record.parameters / 1e6:.1f} M" if record.parameters else ""
    top1 = f"{record.top1:.1f} %" if record.top1 else ""
    return f"    {record.hub_id:54}  {record.task:14}  {count:>10}  {top1:>6}  {note_of(record)}".rstrip()


def note_of(record: CheckpointRecord) -> str:
    """What a user must know about a checkpoint; for a bundled classifier also its accuracy."""
    if not (record.bundled and record.num_labels):
        return record.note
    metrics, note = record.metrics, f"{record.num_labels} {record.note}"
    if "top1" not in metrics:
        return note
    between = f" ({metrics['top1_low']:.1f} to {metrics['top1_high']:.1f})" if "top1_low" in metrics else ""
    images = f" on {metrics['test_pictures']:,} held-out images" if "test_pictures" in metrics else ""
    return f"{note}; top-1 {metrics['top1']:.1f} %{between}{images}"


def _clip(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def variant_lines(variants: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table of variants."""
    yield "Variants for hierax.create_model, with random weights (mae_… adds the decoder)"
    yield ""
    yield f"  {'':27}  {'input':12}  {'width':>5}  {'blocks':14}  {'heads':14}  position embedding"
    for variant in variants:
        size, blocks, heads = (
            mark.join(map(str, variant[field]))
            for field, mark in (("image_size", " x "), ("depths", ", "), ("num_heads", ", "))
        )
        rest = f"{variant['embed_dim']:>5}  {blocks:14}  {heads:14}  {variant['position_embedding']}"
        yield f"  {variant['name']:27}  {size:12}  {rest}"
