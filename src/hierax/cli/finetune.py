"""`hierax finetune`: trains a classifier on labeled data, or a segmentation model on images with masks."""

from __future__ import annotations

import argparse

from hierax.cli import train
from hierax.cli.masks import add_masks, mask_options
from hierax.cli.terminal import UserError

SUMMARY = "train a classifier, a segmentation model or a detector on your labeled data"
EPILOG = (
    train.SETTINGS.format(command="finetune")
    + """
--from scratch starts from random weights. With --teacher the model also learns the logits and features of another
network, on the same augmented images (settings: teacher_logits, teacher_features, label_weight). Without labels, or
with label_weight=0, the model learns only from the teacher. adapter=lora rank=8 trains small matrices beside the
weights, and the head. RUN/adapter then contains them for PEFT, and RUN/model the whole model. This needs peft.
--task segment learns a class for each pixel, from images and masks: two folders of files with equal names, the
folders of ADE20K, Cityscapes or Pascal VOC, a COCO file, or lists and tables with columns image and mask.
--task detect learns boxes and --task instances also masks, from a COCO file, a folder with COCO files, or a YOLO folder
(data.yaml, or images/ and labels/); boxes also from XML files of Pascal VOC; or tables with columns image and objects.
Both have recipes and settings of their own (head=d-fine image_size=512 steps=3000), and need the extra dense."""
)


DETECTION = ("detect", "instances")
TASKS = ("classify", "segment", *DETECTION)
"""The choices of `--task`; `run` starts the run of each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    train.add_run(parser, start="hierax/femto")
    add = parser.add_argument
    add(
        "--task",
        choices=TASKS,
        help="what the model learns: a class for each image (classify) or for each pixel (segment), boxes of objects "
        "(detect), or their boxes and masks (instances). Default: that of the recipe, else classify",
    )
    add("--teacher", metavar="T", help="teacher network: an .onnx or .pt2 file, or a checkpoint")
    add("--teacher-cache", metavar="DIR", help="store the outputs of the teacher in this folder, to reuse them")
    add_masks(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.cli.detection import implied_task

    task = arguments.task or implied_task(arguments)
    return _detection(arguments, task) if task in DETECTION else _finetune(arguments)


def _detection(arguments: argparse.Namespace, task: str) -> int:
    """A run of `hierax.detection.finetune_detection`; returns the exit code."""
    from hierax.cli.detection import run_finetune
    from hierax.train import TrainingStopped

    try:
        return run_finetune(arguments, task)
    except TrainingStopped as error:
        raise UserError(str(error)) from error


def _finetune(arguments: argparse.Namespace) -> int:
    """A run of `hierax.train.finetune`; returns the exit code."""
    from hierax.train import TrainingStopped, finetune
    from hierax.train.run import TASKS as MODES_OF_TASKS

    request = train.read_request(arguments)
    masks = mask_options(arguments)
    if request.masks and not any(masks.values()):
        masks = request.masks
    task = next((task for task, mode in MODES_OF_TASKS.items() if mode == request.mode), "classify")
    try:
        finetune(
            request.data,
            source=request.source,
            out=request.out,
            task=arguments.task or task,
            recipe=request.recipe,
            settings=request.settings,
            teacher=request.teacher,
            teacher_cache=request.teacher_cache,
            validation=request.validation,
            columns=request.columns,
            **masks,
            device=arguments.device,
            parallel=arguments.parallel,
            overwrite=arguments.overwrite,
        )
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    except ValueError as error:
        from hierax.detection.sources import has_boxes

        if arguments.task is None and has_boxes(request.data):
            raise UserError(f"{error}; for boxes in COCO files or YOLO folders, add --task detect") from error
        raise
    return train.exit_code(request.out)
