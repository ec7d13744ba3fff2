"""What the requests of hostile.py are made of: images, damage, and connections that are not always HTTP."""

from __future__ import annotations

import functools
import http.client
import io
import json
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

PATIENCE = 60.0
"""Seconds after which a server that has not answered hangs."""
ROUTES = (
    "classify",
    "embed",
    "features",
    "similarity",
    "reconstruct",
    "explain",
    "segment",
    "predict",
    "search",
    "view",
)
V2 = "/v2/models/hierax/femto/infer"


class Finding(Exception):
    """Something that a server must not do."""


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int


# -- images ------------------------------------------------------------------------------------------------------------


@functools.cache
def image_files() -> tuple[bytes, ...]:
    """A small image in each format that Pillow writes here."""
    random_ = np.random.default_rng(0)
    base = Image.fromarray(random_.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((120, 90))
    frames = [base, base.rotate(90), base.rotate(180)]
    written = []
    settings: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", base, {}),
        ("JPEG", base, {"progressive": True}),
        ("JPEG", base.convert("CMYK"), {}),
        ("JPEG", base.convert("L"), {}),
        ("PNG", base, {}),
        ("PNG", base.convert("P"), {}),
        ("PNG", base.convert("RGBA"), {}),
        ("PNG", base.convert("L"), {}),
        ("PNG", base, {"save_all": True, "append_images": frames}),
        ("GIF", base, {"save_all": True, "append_images": frames}),
        ("WEBP", base, {}),
        ("WEBP", base, {"lossless": True}),
        ("TIFF", base, {}),
        ("TIFF", base, {"compression": "tiff_lzw"}),
        ("TIFF", base, {"compression": "tiff_deflate"}),
        ("TIFF", base, {"compression": "jpeg"}),
        ("TIFF", base, {"save_all": True, "append_images": frames}),
        ("BMP", base, {}),
        ("PPM", base, {}),
        ("PPM", base.convert("L"), {}),
        ("TGA", base, {}),
        ("ICO", base, {}),
        ("JPEG2000", base, {}),
        ("AVIF", base, {}),
        ("PCX", base, {}),
        ("SGI", base, {}),
        ("DDS", base, {}),
    ]
    for form, image, options in settings:
        stream = io.BytesIO()
        try:
            image.save(stream, form, **options)
        except (OSError, KeyError, ValueError):
            continue  # this Pillow does not write it
        written.append(stream.getvalue())
    return tuple(written)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with some bits turned, bytes replaced, parts doubled or left out, or without its end."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        way = chance.randrange(6)
        at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 64))
        if way == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[at] = chance.choice((0, 255, chance.randrange(256)))
        elif way == 2 and len(data) > 8:
            del data[chance.randrange(4, len(data)) :]
        elif way == 3:
            data[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF)))
        elif way == 4:
            data[at:at] = data[at : at + chance.randrange(1, 64)]
        else:
            del data[at : at + chance.randrange(1, 32)]
        if not data:
            return b"\0"
    return bytes(data)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that claims to be large, and holds zeros for a part of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


# -- sending -----------------------------------------------------------------------------------------------------------


def post(address: Address, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> int:
    """The status of the answer to a request; the answer is read to its end, and JSON in it is parsed."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        return finished(connection, method)
    except http.client.HTTPException:
        return 0
    finally:
        connection.close()


def finished(connection: http.client.HTTPConnection, method: str = "POST") -> int:
    """The status of the answer of a connection, whose content is checked."""
    answer = connection.getresponse()
    content = answer.read()
    if answer.headers.get_content_type() == "application/json" and content and method != "HEAD":
        json.loads(content, parse_constant=_no_constant)
    if b"Traceback" in content or b"site-packages" in content:
        raise Finding(f"the answer shows the inside: {content[:200]!r}")
    return answer.status


def _no_constant(name: str) -> Any:
    raise Finding(f"the answer holds {name}, which is not JSON")


def raw(address: Address, *parts: bytes, pause: float = 0.0, half: bool = False, leave: bool = False) -> list[int]:
    """The statuses of the answers to bytes that are sent as they are."""
    with socket.create_connection((address.host, address.port), timeout=PATIENCE) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
            if pause:
                time.sleep(pause)
        if leave:
            return []
        if half:
            connection.shutdown(socket.SHUT_WR)
        content = b""
        try:
            while more := connection.recv(65536):
                content += more
        except ConnectionResetError:
            pass
        except TimeoutError as error:
            if not content:
                raise Finding("no answer, and the connection stays open") from error
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", content)]


def head(method: str, path: str, *lines: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *lines, "", ""]).encode(
        "latin-1", "replace"
    )


def form(parts: Sequence[tuple[str, bytes]], boundary: str = "xXx", end: bool = True) -> bytes:
    """The body of a form: heads and contents of its parts."""
    body = b"".join(
        f"--{boundary}\r\n{head}\r\n\r\n".encode("utf-8", "replace") + content + b"\r\n" for head, content in parts
    )
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


FILE = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
FORM = {"Content-Type": "multipart/form-data; boundary=xXx"}
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "image/jpeg"}


def good_answer(address: Address) -> Any:
    """The answer to a good request, without its time."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
    status, content = 0, {}
    for _ in range(100):
        connection.request("POST", "/v1/classify?top_k=3", image_files()[0], BYTES)
        answer = connection.getresponse()
        status, content = answer.status, json.loads(answer.read())
        if status not in (429, 503):
            break
        time.sleep(0.2)
    connection.close()
    if status != 200:
        raise Finding(f"a good request got {status}: {content}")
    return content["results"]


def route(chance: random.Random) -> str:
    """A route for images, sometimes with arguments."""
    query = chance.choice(("", "", "?format=png", "?format=npy", "?stage=3&x=0.5&y=0.5", "?size=96", "?format=arrow"))
    return f"/v1/{chance.choice(ROUTES)}{query}"
