"""The base class of the image processor and the video processor: the record of a checkpoint, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

from hierax.processing.normalize import levels_table
from hierax.processing.record import Preprocessing
from hierax.transformers_arguments import without_foreign

_Value = TypeVar("_Value")
_BACKENDS = {"pil": False, "torchvision": True}


class Field(Generic[_Value]):
    """A field of the record, as an attribute of the processor. Assigning to it changes the record."""

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
    """`size` or `crop_size` of a processor. With it, `processor.size["height"] = 448` changes the record too."""

    def __init__(self, values: Mapping[str, int], processor: RecordedProcessor, name: str) -> None:
        super().__init__(values)
        self._processor, self._name = processor, name

    def __setitem__(self, edge: str, pixels: int) -> None:
        setattr(self._processor, self._name, {**self, edge: pixels})
        super().__setitem__(edge, pixels)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self._name} cannot be changed in this way: assign a mapping to processor.{self._name}")

    __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy does not change the processor


class RecordedProcessor:
    """A processor with a preprocessing `record`.

    The fields of the record are attributes that can be assigned: `processor.size = 448`. A wrong value raises
        ValueError
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
        """The preprocessing record. Assigning another record changes the processor."""
        return self._record

    @record.setter
    def record(self, record: Preprocessing) -> None:
        self._use(record)

    def _use(self, record: Preprocessing) -> None:
        """Sets the record, and the values that are computed from it."""
        table = levels_table(record)
        self._record, self._table = record, table

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> list[str]:
        """Writes `preprocessor_config.json` completely or not at all.

        Args:
            folder: the folder to write to, created if missing.
            options: `push_to_hub=False`, for code that was written for transformers.

        Returns:
            The path of the file, in a list, as in transformers.

        Raises:
            ValueError: `push_to_hub` is True.
            TypeError: there is another option.
        """
        unknown = without_foreign(options)
        if unknown:
            raise TypeError(f"save_pretrained got {', '.join(map(repr, unknown))}; expected only a folder")
        return [os.fspath(self.record.write(folder))]

    def push_to_hub(self, repo_id: str) -> str:
        """Always raises NotImplementedError, because a processor is uploaded with its model; the message says how."""
        raise NotImplementedError(
            f"a processor is uploaded with its model: set model.preprocessing = processor.record, then call "
            f"model.push_to_hub({repo_id!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as a dict, as it is saved."""
        return self.record.to_dict()

    def to_json_string(self) -> str:
        """The record as the text of `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def resolve_fast(given: dict[str, Any], fast: bool | None) -> bool | None:
    """The value of `fast`, or of the arguments `use_fast` and `backend` of transformers, which are removed from
    `given`.

    Raises:
        ValueError: the arguments contradict each other, or the backend is unknown.
    """
    answers = {"fast": fast, "use_fast": given.pop("use_fast", None)}
    backend = given.pop("backend", None)
    if backend is not None:
        if backend not in _BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected 'pil' (exact) or 'torchvision' (fast)")
        answers["backend"] = _BACKENDS[backend]
    stated = {name: value for name, value in answers.items() if value is not None}
    for name, value in stated.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; expected true or false")
    if len(set(stated.values())) > 1:
        raise ValueError(f"{' and '.join(stated)} contradict each other; expected one of them")
    return cast("bool | None", next(iter(stated.values()), None))
