"""Reads the bodies of requests: raw images, forms with files, and JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hierax.serve.admission import Reservation
from hierax.serve.errors import refuse
from hierax.serve.limits import Limits

if TYPE_CHECKING:
    from hierax.serve.app import State

_AT_ONCE = 300_000
"""Bytes of a body that is parsed in the event loop; larger ones are parsed in a thread."""
_FIELD = 100_000
"""Bytes of a field of a form that is not a file."""
_FIELDS = 64
"""Fields of a form that are not files, and of the query."""
_JSON = 32_000_000
"""Bytes of a JSON body, which takes long to parse; files in a form may have more."""
_VALUES = 100_000
"""Values in JSON: to make millions of objects would stop all threads for seconds."""
_ID = re.compile(r"[0-9a-f]{16}")
_FORM = "curl -F image=@photo.jpg sends a form; --data-binary @photo.jpg needs -H 'Content-Type: image/jpeg' too"


@dataclass(frozen=True)
class Upload:
    """An image of a request: the name that the client gave it, and the bytes of the file."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Call:
    """What a request asks.

    Attributes:
        uploads: the images.
        fields: the arguments, from the query and from the body. Values that are JSON are parsed: "5" is 5.
        deadline: the time of the event loop at which the request is answered with an error.
    """

    uploads: tuple[Upload, ...]
    fields: dict[str, Any]
    deadline: float


@dataclass(frozen=True)
class Body:
    """A body as it arrived.

    Attributes:
        content: the bytes.
        kind: the media type without its parameters, in small letters; "" if there is none.
        deadline: as in `Call`.
        reservation: holds the bytes of the body; `add_images` reserves room for its images.
    """

    content: bytes
    kind: str
    deadline: float
    reservation: Reservation


@dataclass
class Parts:
    """The images and fields of a body."""

    uploads: list[Upload] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


async def read_body(request: Request) -> Body:
    """A dependency: the body of a request that is admitted. Its room is given back when the response begins.

    Raises:
        Refusal: there is no room (429), the server starts or stops (503), the body is too large (413) or too slow
            (408).
    """
    state: State = request.app.state.hierax
    visit = state.visit(request.scope)
    state.check_room(request.headers)
    content = await _received(request, visit.reservation, state.limits)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Body(content, kind, visit.deadline, visit.reservation)


async def read_call(request: Request) -> Call:
    """A dependency: the images and arguments of a request that is admitted; a POST has at least one image.

    Raises:
        Refusal: as `read_body`; also the body is not one that is read (415), or not as it should be (400).
    """
    return await _call(request, least=1 if request.method == "POST" else 0)


async def read_any_call(request: Request) -> Call:
    """As `read_call`, for routes that do not always take an image: there may be none."""
    return await _call(request, least=0)


async def _call(request: Request, *, least: int) -> Call:
    state: State = request.app.state.hierax
    body = await read_body(request)
    header = request.headers.get("content-type", "")
    if len(body.content) > _AT_ONCE and not _is_image(body.kind):
        parts = await state.in_thread(parse, body.content, body.kind, header, state.limits)
    else:
        parts = parse(body.content, body.kind, header, state.limits)
    query = query_fields(request)
    if _is_image(body.kind) and parts.uploads:
        query.pop("name", None)
        name = request.query_params.get("name") or "image"  # as it is: 1e5 is not the number 100000.0
        parts.uploads = [Upload(name, parts.uploads[0].content)]
    if len(parts.uploads) < least:
        raise refuse("bad_argument", f"image is missing; {_FORM}", field="image")
    fields = merge(query, parts.fields)
    body.reservation.add_images(len(parts.uploads))
    return Call(tuple(parts.uploads), fields, body.deadline)


async def _received(request: Request, reservation: Reservation, limits: Limits) -> bytes:
    """The bytes of the body; each part of it must arrive within `limits.body_s` seconds."""
    parts: list[bytes] = []
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    late = False

    def cancel() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = loop.call_later(limits.body_s, cancel)
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise refuse("timeout", "the client has left")
            part = message.get("body", b"")
            if part:
                reservation.add_bytes(len(part))
                parts.append(part)
            if not message.get("more_body", False):
                break
            timer.cancel()
            timer = loop.call_later(limits.body_s, cancel)
    except asyncio.CancelledError:
        if not late:
            raise
        uncancel(task)
        raise refuse("timeout", f"no part of the body arrived for {limits.body_s:g} seconds") from None
    finally:
        timer.cancel()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def uncancel(task: asyncio.Task[Any]) -> None:
    """Takes back a cancellation that was caught (Python 3.11 counts them)."""
    if sys.version_info >= (3, 11):
        task.uncancel()


def parse(content: bytes, kind: str, header: str, limits: Limits) -> Parts:
    """The images and fields of a body.

    Args:
        content: the body.
        kind: its media type; `header` is the whole header Content-Type.

    Raises:
        Refusal: 415 or 400, as in `read_call`; 413 if there are too many images.
    """
    if _is_image(kind):
        return Parts([Upload("image", content)] if content else [])
    if kind == "multipart/form-data":
        return _from_form(content, header, limits)
    if kind == "application/json" or kind.endswith("+json"):
        return _from_json(content, limits)
    if not content:
        return Parts()
    raise refuse("unsupported_media", f"the body is of type {kind[:100] or 'unknown'}; expected an image; {_FORM}")


def _is_image(kind: str) -> bool:
    return kind.startswith("image/") or kind == "application/octet-stream"


def _from_json(content: bytes, limits: Limits) -> Parts:
    if len(content) > _JSON:
        raise refuse("too_large", f"the JSON body is too large; expected at most {_JSON:,} bytes; send files as a form")
    fields = _json_object(content)
    images = fields.pop("images", [])
    if "image" in fields:
        images = [*images, fields.pop("image")] if isinstance(images, list) else images
    if not isinstance(images, list):
        raise refuse("bad_argument", 'images is not a list; expected [{"name", "data"}]', field="images")
    _check_count(len(images), limits)
    return Parts([_from_base64(image, number) for number, image in enumerate(images)], fields)


def count_values(content: bytes | bytearray) -> int:
    """At least the number of values in JSON, without parsing it. Images in base64 have none of these characters."""
    return content.count(b",") + content.count(b"[") + content.count(b"{")


def _json_object(content: bytes) -> dict[str, Any]:
    if count_values(content) > _VALUES:
        raise refuse("too_large", f"the JSON has more than {_VALUES:,} values")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise refuse("bad_argument", f"the body is not JSON: {reason}") from None
    if not isinstance(found, dict):
        raise refuse("bad_argument", 'the body is not a JSON object; expected {"images": [...], ...}')
    return found


def _from_base64(image: object, number: int) -> Upload:
    place = f"images[{number}]"
    entry: Mapping[str, Any] = {"data": image} if isinstance(image, str) else image if isinstance(image, dict) else {}
    data, name = entry.get("data"), entry.get("name", "image" if number == 0 else f"image{number + 1}")
    if not isinstance(data, str) or not isinstance(name, str):
        raise refuse("bad_argument", f'{place} is not {{"name", "data"}} with the image in base64', field="images")
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        return Upload(name, base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise refuse("bad_argument", f"{place}.data is not base64: {error}", field="images") from None


def _from_form(content: bytes, header: str, limits: Limits) -> Parts:
    """The files and fields of a body of type multipart/form-data."""
    _, options = parse_options_header(header)
    boundary = options.get(b"boundary")
    if not boundary:
        raise refuse("bad_argument", "the header Content-Type has no boundary")
    form = _Form(limits)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # pyright: ignore[reportArgumentType]
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise refuse("bad_argument", f"the form is damaged: {error}") from None
    if not form.ended:
        raise refuse("bad_argument", "the form is damaged: it has no end")
    return form.parts


class _Form:
    """Collects the parts of a form from the callbacks of its parser."""

    def __init__(self, limits: Limits) -> None:
        self.parts, self.ended, self._limits = Parts(), False, limits
        self._seen = self._values = 0
        self._headers: dict[str, bytes] = {}
        self._key, self._value, self._data = bytearray(), bytearray(), bytearray()

    def callbacks(self) -> dict[str, Any]:
        """The callbacks for `MultipartParser`."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._headers, self._data = {}, bytearray()
        self._seen += 1
        if self._seen > self._limits.max_images + _FIELDS:
            raise refuse("too_large", f"the form has more than {self._seen - 1} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._key.decode("latin-1").lower()] = bytes(self._value)
        self._key, self._value = bytearray(), bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _part_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        file = options.get(b"filename")
        if file is not None or name == "image":
            if name not in ("image", "images", "file"):
                raise refuse("bad_argument", f"{name[:100]!r} is a file; expected files in the field image", field=name)
            text = self._data[:300].decode("utf-8", "replace")
            if file is None and text and text.isprintable() and "\ufffd" not in text:
                raise refuse(
                    "bad_argument", f"image is the text {text!r:.100}; expected a file; {_FORM}", field="image"
                )
            _check_count(len(self.parts.uploads) + 1, self._limits)
            shown = (file or b"image").decode("utf-8", "replace")
            self.parts.uploads.append(Upload(shown, bytes(self._data)))
            return
        if len(self._data) > _FIELD:
            raise refuse("too_large", f"the field {name[:100]} has more than {_FIELD:,} bytes", field=name)
        self._values += count_values(self._data)
        if self._values > _VALUES:
            raise refuse("too_large", f"the fields have more than {_VALUES:,} values", field=name)
        _add(self.parts.fields, name, value_of(self._data.decode("utf-8", "replace")))

    def _end(self) -> None:
        self.ended = True


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_images:
        raise refuse("too_large", f"{count:,} images; expected at most {limits.max_images:,} per request")


def query_fields(request: Request) -> dict[str, Any]:
    """The arguments in the query of a request; an argument that is given several times has a list."""
    fields: dict[str, Any] = {}
    items = request.query_params.multi_items()
    if len(items) > _FIELDS:
        raise refuse("bad_argument", f"the query has {len(items)} arguments; expected at most {_FIELDS}")
    for name, value in items:
        _add(fields, name, value_of(value))
    return fields


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    if name in fields:
        before = fields[name]
        fields[name] = [*before, value] if isinstance(before, list) else [before, value]
    else:
        fields[name] = value


def value_of(text: str) -> Any:
    """The value of a field: parsed if it is JSON, else the text."""
    first = text[:1]
    if not first or (first.isalpha() and text not in ("true", "false", "null")):
        return text
    try:
        found = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    if isinstance(found, float) and _ID.fullmatch(text):  # "12e4567890123456" is an id, and not the number infinity
        return text
    return found


def merge(query: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of query and body together.

    Raises:
        Refusal: an argument is in both, with different values.
    """
    for name in query.keys() & body.keys():
        if query[name] != body[name]:
            raise refuse("bad_argument", f"{name} is given in the query and in the body, differently", field=name)
    return {**body, **query}
