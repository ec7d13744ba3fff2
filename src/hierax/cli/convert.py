"""`hierax convert`: converts weights from one format to another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hierax.cli.loading import say_license
from hierax.cli.outputs import add_json, add_overwrite
from hierax.cli.terminal import UserError
from hierax.console import tell

SUMMARY = "write a model in the format of another library"
EPILOG = """SRC is a Hub id, a folder, or a file (.safetensors, .pth, .pth.tar, .pt, .bin, .ckpt) in any format. Files
of training scripts work too. OUT is a folder. With --to official it can be a .pth file.
--pos-embed abswin splits an absolute position embedding into a table of one mask unit and a global table.
This is exact at the model's own size, and better at other sizes (arXiv 2311.05613).
--windows sam2 gives a classic model windows in stages 3 and 4, which cost less at high resolution. At 224 pixels
the model computes the same.
An adapter (LoRA, as hierax finetune adapter=lora or PEFT writes it) is merged into its base model.
In Python: hierax.convert."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("source", metavar="SRC", help="Hub id, folder or file, such as hierax/femto")
    parser.add_argument("target", nargs="?", metavar="OUT", help="the same as -o OUT")
    parser.add_argument("-o", "--output", metavar="OUT", help="output folder, created if missing, or a .pth file")
    parser.add_argument(
        "--to",
        choices=("transformers", "official", "timm"),
        default="transformers",
        help="format to write (default: transformers)",
    )
    parser.add_argument("--pos-embed", choices=("abswin",), help="change the type of position embedding")
    parser.add_argument("--windows", choices=("sam2",), help="give a classic model the windows of SAM 2")
    parser.add_argument("--no-neck", action="store_true", help="of a checkpoint of SAM 2, write the trunk alone")
    parser.add_argument("--variant", metavar="V", help="architecture, if the tensors of a file fit none or several")
    parser.add_argument("--part", metavar="P", help="which model of a file with several models, such as model_ema")
    parser.add_argument("--base", metavar="SRC", help="base model of an adapter (default: the one that it names)")
    add_overwrite(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.checkpoint import convert

    if arguments.target and arguments.output:
        raise UserError(f"OUT is given twice: {arguments.target} and --output {arguments.output}")
    if not (arguments.target or arguments.output):
        raise UserError("-o OUT is missing: the folder or .pth file to write")
    target = Path(arguments.output or arguments.target)
    existing = [path for path in (target / "model.safetensors", target) if path.is_file()]
    if existing and not arguments.overwrite:
        raise UserError(f"{existing[0]} would be replaced; choose another place, or pass --overwrite")
    before = _file_states(target)
    if target.is_dir() and not arguments.overwrite and any(target.iterdir()) and not (target / "config.json").exists():
        raise UserError(f"{target} is not empty and holds no model; choose another folder, or pass --overwrite")
    options = {name: getattr(arguments, name) for name in ("pos_embed", "variant", "part", "base", "windows")}
    model = convert(arguments.source, target, to=arguments.to, neck=not arguments.no_neck, **options)
    say_license(arguments.source, model.license)
    written = {path: state[0] for path, state in _file_states(target).items() if before.get(path) != state}
    if arguments.json:
        result = {"output": str(target), "format": arguments.to, "model": type(model).__name__}
        print(json.dumps({**result, "parameters": model.num_parameters(), "files": [str(path) for path in written]}))
        return 0
    for line in f"read {model.loading_report}".splitlines():
        tell(line)
    tell(f"wrote {target} ({arguments.to}): {type(model).__name__}, {model.num_parameters() / 1e6:,.1f} M parameters")
    for path, size in written.items():
        tell(f"  {path}  {_size(size)}")
    return 0


def _file_states(target: Path) -> dict[Path, tuple[int, int, int]]:
    """The files of a target, each with its size, inode number and time of change, which show whether it was written."""
    paths = sorted(target.iterdir()) if target.is_dir() else [target]
    stats = {path: path.stat() for path in paths if path.is_file()}
    return {path: (stat.st_size, stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
