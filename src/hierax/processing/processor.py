"""The base of the processors of images and of videos: the record of a checkpoint, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

from hierax.processing.normalise import levels_table
from hierax.processing.record import Preprocessing
from hierax.transformers_arguments import without_foreign

_Value = TypeVar("_Value")
_BACKENDS = {"pil": False, "torchvision": True}


class Field(Generic[_Value]):
    """A field of the record as an attribute of the processor: assigning to it changes what the processor does."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, processor: None, owner: type) -> Field[_Value]: ...

    @overload
    def __get__(self, processor: RecordedProcessor, owner: type) -> _Value: ...

    def __get__(self, processor: RecordedProcessor | None, owner: type) -> Any:
        if processor is None:
            return self
        value = getattr(processor.record, self._name)
        return Edges(value, processor, self._name) if isinstance(value, Mapping) else value

    def __set__(self, processor: RecordedProcessor, value: Any) -> None:
        processor.record = processor.record.replace(**{self._name: value})


class Edges(dict[str, int]):
    """`size` or `crop_size` of a processor: `processor.size["height"] = 448` is an assignment to `processor.size`."""

    def __init__(self, values: Mapping[str, int], processor: RecordedProcessor, name: str) -> None:
        super().__init__(values)
        self._processor, self._name = processor, name

    def __setitem__(self, edge: str, pixels: int) -> None:
        setattr(self._processor, self._name, {**self, edge: pixels})
        super().__setitem__(edge, pixels)

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self._name} is replaced as a whole: assign a mapping to processor.{self._name}")

    __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refused  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy is no longer the processor's


class RecordedProcessor:
    """A processor that does what its `record` says.

    The fields of the record are attributes that can be assigned: `processor.size = 448`. A bad value raises ValueError
    and changes nothing.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    size = Field[dict[str, int]]()
    crop_size = Field[dict[str, int]]()
    resample = Field[int]()
    image_mean = Field[tuple[float, ...]]()
    image_std = Field[tuple[float, ...]]()
    rescale_factor = Field[float]()
    do_resize = Field[bool]()
    do_center_crop = Field[bool]()
    do_rescale = Field[bool]()
    do_normalize = Field[bool]()
    do_convert_rgb = Field[bool]()
    image_processor_type = Field[str]()

    def __init__(self, record: Preprocessing) -> None:
        self.record = record

    @property
    def record(self) -> Preprocessing:
        """The record in use; assigning another one changes the processor."""
        return self._record

    @record.setter
    def record(self, record: Preprocessing) -> None:
        self._use(record)

    def _use(self, record: Preprocessing) -> None:
        """Sets the record, and the values that follow from it."""
        table = levels_table(record)
        self._record, self._table = record, table

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> list[str]:
        """Write `preprocessor_config.json` into `folder` (made if missing), whole or not at all.

        Args:
            folder: where to write it.
            options: for code written for transformers: `push_to_hub=False`.

        Returns:
            The path of the file, in a list, as in transformers.

        Raises:
            ValueError: `push_to_hub` is True. TypeError: another option.
        """
        unknown = without_foreign(options)
        if unknown:
            raise TypeError(f"save_pretrained got {', '.join(map(repr, unknown))}; expected a folder alone")
        return [os.fspath(self.record.write(folder))]

    def push_to_hub(self, repo_id: str) -> str:
        """Always raises; the message says what to do, because a processor is uploaded with its model."""
        raise NotImplementedError(
            f"a processor is uploaded with its model: set model.preprocessing = processor.record, then call "
            f"model.push_to_hub({repo_id!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as it is saved."""
        return self.record.to_dict()

    def to_json_string(self) -> str:
        """The record as the text of `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def chosen_speed(given: dict[str, Any], fast: bool | None) -> bool | None:
    """`fast`, or its value by transformers' arguments `use_fast` and `backend`, which are removed from `given`.

    Raises:
        ValueError: they contradict one another, or the backend is unknown.
    """
    answers = {"fast": fast, "use_fast": given.pop("use_fast", None)}
    backend = given.pop("backend", None)
    if backend is not None:
        if backend not in _BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected 'pil' (exact) or 'torchvision' (fast)")
        answers["backend"] = _BACKENDS[backend]
    told = {name: value for name, value in answers.items() if value is not None}
    for name, value in told.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; expected true or false")
    if len(set(told.values())) > 1:
        raise ValueError(f"{' and '.join(told)} contradict one another; expected one of them")
    return cast("bool | None", next(iter(told.values()), None))
