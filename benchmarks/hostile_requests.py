"""The kinds of hostile requests of hostile.py. Each sends one (or a few) and returns the statuses of the answers."""

from __future__ import annotations

import base64
import functools
import gzip
import http.client
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from hostile_sending import (
    BYTES,
    FILE,
    FORM,
    JSON,
    PATIENCE,
    ROUTES,
    V2,
    Address,
    Finding,
    bomb,
    form,
    head,
    image_files,
    mutated,
    post,
    raw,
    route,
)

Kind = Callable[[Address, random.Random], list[int]]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Registers a kind by the name of its function, without the first underscore."""
    KINDS[function.__name__[1:]] = function
    return function


@kind
def _mutated_image(address: Address, chance: random.Random) -> list[int]:
    content = mutated(chance.choice(image_files()), chance)
    return [post(address, route(chance), content, {"Content-Type": "application/octet-stream"})]


@kind
def _mutated_images_in_a_form(address: Address, chance: random.Random) -> list[int]:
    files = [mutated(chance.choice(image_files()), chance) for _ in range(chance.randrange(1, 6))]
    body = form([(FILE, content) for content in files])
    return [post(address, route(chance), mutated(body, chance) if chance.random() < 0.3 else body, FORM)]


@kind
def _image_bomb(address: Address, chance: random.Random) -> list[int]:
    width, height = chance.choice(
        ((30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (60_000, 1), (13_000, 13_000))
    )
    return [post(address, route(chance), bomb(width, height), {"Content-Type": "image/png"})]


@kind
def _gzip_bomb(address: Address, chance: random.Random) -> list[int]:
    packed = _zeros(chance.choice((1, 10, 100)))
    path = chance.choice((V2, "/v1/classify"))
    headers = {"Content-Encoding": chance.choice(("gzip", "deflate", "br", "gzip, gzip")), **JSON}
    return [post(address, path, packed if chance.random() < 0.8 else mutated(packed, chance), headers)]


@functools.cache
def _zeros(megabytes: int) -> bytes:
    return gzip.compress(bytes(megabytes * 1_000_000), 9)


@kind
def _lying_length(address: Address, chance: random.Random) -> list[int]:
    length = chance.choice(("100000", "99999999999999999999", "-5", "0", "1e3", "", "abc", "5, 7", "0x10", "+5"))
    lines = [f"Content-Length: {length}", "Content-Type: image/jpeg"]
    if chance.random() < 0.2:
        lines.append("Content-Length: 3")
    if chance.random() < 0.2:
        lines.append("Transfer-Encoding: chunked")
    return raw(address, head("POST", route(chance), *lines), image_files()[0][:500], half=True)


@kind
def _chunks_without_end(address: Address, chance: random.Random) -> list[int]:
    lines = ["Transfer-Encoding: chunked", "Content-Type: image/jpeg"]
    size = chance.choice((10, 1000, 100_000))
    chunk = f"{size:x}\r\n".encode() + bytes(size) + b"\r\n"
    chunks = [chunk] * chance.choice((3, 50, 300))
    last = chance.choice((b"", b"zz\r\n", b"ffffffffffffffffff\r\n", b"5\r\nab", b"0\r\n"))
    return raw(address, head("POST", route(chance), *lines), *chunks, last, half=True)


@kind
def _huge_headers(address: Address, chance: random.Random) -> list[int]:
    way = chance.randrange(4)
    if way == 0:
        lines = ["X-A: " + "a" * chance.choice((10_000, 100_000, 1_000_000))]
    elif way == 1:
        lines = [f"X-{number}: b" for number in range(chance.choice((200, 5000)))]
    elif way == 2:
        lines = ["Authorization: Bearer " + "k" * 60_000, "Content-Type: " + "x/" * 5000]
    else:
        lines = ["X\x00Y: a", "\xff: b", ": c", "Folded: a", " b"]
    return raw(
        address,
        head(chance.choice(("GET", "POST")), chance.choice(("/v1/model", "/v1/classify", "/v2")), *lines),
        half=True,
    )


@kind
def _long_path(address: Address, chance: random.Random) -> list[int]:
    path = "/" + chance.choice(("a", "%41", "../", "/")) * chance.choice((100, 5000, 50_000))
    return raw(address, head("GET", path), half=True)


PATHS = (
    "/../../etc/passwd",
    "/assets/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%2e%2e/%2e%2e/app.py",
    "/assets//etc/passwd",
    "/docs/../app.py",
    "/docs/%2e%2e%2fapp.py",
    "/docs/..%5c..%5capp.py",
    "/assets/photos/../../app.py",
    "/v1/collection/thumbnail/../../../etc/passwd",
    "/v1/collection/thumbnail/%00",
    "/v1/collection/thumbnail/..%2f..%2fetc%2fpasswd",
    "/v2/models/..%2f..%2fetc%2fpasswd",
    "/v2/models/%00/infer",
    "/v2/models/a/versions/../../b",
    "/v2/models/%ff%fe/ready",
    "/v1/classify/../../etc/passwd",
    "/assets/\\..\\..\\etc\\passwd",
    "/assets/%c0%ae%c0%ae/etc/passwd",
    "/assets/file:///etc/passwd",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/openapi.json/../../etc/passwd",
    "/metrics/../etc/passwd",
)


@kind
def _path_traversal(address: Address, chance: random.Random) -> list[int]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
    try:
        path = chance.choice(PATHS)
        connection.putrequest(chance.choice(("GET", "GET", "POST", "HEAD")), path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        if b"root:" in content or b"import annotations" in content:
            raise Finding(f"{path} gives a file of the server")
        return [answer.status]
    except (http.client.HTTPException, UnicodeEncodeError):
        return [0]
    finally:
        connection.close()


@kind
def _form_bomb(address: Address, chance: random.Random) -> list[int]:
    way = chance.randrange(8)
    if way == 0:
        body = form(
            [(f'Content-Disposition: form-data; name="f{n}"', b"1") for n in range(chance.choice((500, 20_000)))]
        )
    elif way == 1:
        body = form([('Content-Disposition: form-data; name="' + "a[b]" * 20_000 + '"', b"1")])
    elif way == 2:
        body = form([(FILE, image_files()[0])], boundary="other")
    elif way == 3:
        body = form([(FILE, image_files()[0])], end=False)
    elif way == 4:
        body = form([(f"X-{n}: " + "a" * 1000, b"") for n in range(2000)])
    elif way == 5:
        body = form([(FILE, image_files()[0])] * chance.choice((65, 1000)))
    elif way == 6:
        body = form(
            [('Content-Disposition: form-data; name="\x00\u202e\ud83d"; filename="\u0000/../../x"', b"\xff\x00")]
        )
    else:
        body = b"--xXx" * 100_000
    headers = (
        FORM
        if chance.random() < 0.8
        else {
            "Content-Type": chance.choice(
                ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 5000)
            )
        }
    )
    return [post(address, route(chance), body, headers)]


@kind
def _deep_json(address: Address, chance: random.Random) -> list[int]:
    depth = chance.choice((100, 2000, 500_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    body = chance.choice(('{"images": %s}', "%s", '{"inputs": %s}')) % (opening * depth + "1" + closing * depth)
    return [post(address, chance.choice((V2, route(chance))), body.encode(), JSON)]


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    10**400,
    1.5,
    -0.0,
    "",
    "a",
    "\x00",
    "\ud800",
    "é" * 1000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "NaN",
    "../../etc/passwd",
    float("nan"),
    float("inf"),
    "1e999",
    2**63,
    "0" * 10_000,
    ["a"] * 1000,
)
FIELDS = (
    "top_k",
    "size",
    "layer",
    "l2",
    "format",
    "stage",
    "x",
    "y",
    "keep",
    "mask_ratio",
    "seed",
    "statistics",
    "label",
    "method",
    "tasks",
    "k",
    "id",
    "images",
    "image",
    "name",
    "\ud800",
    "constructor",
    "__proto__",
)


@kind
def _wrong_values(address: Address, chance: random.Random) -> list[int]:
    picture = base64.b64encode(image_files()[0]).decode()
    fields: dict[str, Any] = {"images": [{"name": chance.choice(("a.jpg", "\ud800", "\x00", 5)), "data": picture}]}
    for _ in range(chance.randrange(1, 4)):
        fields[chance.choice(FIELDS)] = chance.choice(VALUES)
    return [post(address, f"/v1/{chance.choice(ROUTES)}", json.dumps(fields).encode(), JSON)]


@kind
def _wrong_query(address: Address, chance: random.Random) -> list[int]:
    words = (
        "1",
        "-1",
        "0",
        "nan",
        "inf",
        "1e400",
        "%00",
        "%ff",
        "a" * 2000,
        "",
        "[]",
        "true",
        "9" * 5000,
        "%F0%9F%92%A9",
        "null",
        "1_0",
    )
    query = "&".join(
        f"{chance.choice(FIELDS[:17])}={chance.choice(words)}" for _ in range(chance.choice((1, 2, 3, 100)))
    )
    return [post(address, f"/v1/{chance.choice(ROUTES)}?{query}", image_files()[0], BYTES)]


@kind
def _wrong_base64(address: Address, chance: random.Random) -> list[int]:
    data = chance.choice(
        (
            "====",
            "a",
            "é",
            "a" * 100_001,
            base64.b64encode(b"no image").decode(),
            "data:,",
            "data:image/png;base64",
            "\n" * 5000,
            5,
        )
    )
    return [post(address, route(chance), json.dumps({"images": [{"name": "a", "data": data}]}).encode(), JSON)]


@kind
def _wrong_protocol(address: Address, chance: random.Random) -> list[int]:
    entry: dict[str, Any] = {"name": "pixel_values", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.0] * 3072}
    if chance.random() < 0.5:
        entry = {
            "name": "image",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(image_files()[0]).decode()],
        }
    request: dict[str, Any] = {"inputs": [entry], "id": "1", "outputs": [{"name": "logits"}]}
    for _ in range(chance.randrange(1, 3)):
        target = chance.choice((entry, request))
        target[chance.choice(("name", "shape", "datatype", "data", "inputs", "id", "outputs", "parameters"))] = (
            chance.choice(VALUES)
        )
    return [post(address, V2, json.dumps(request).encode(), JSON)]


@kind
def _damaged_tensors(address: Address, chance: random.Random) -> list[int]:
    pixels = np.zeros((1, 3, 32, 32), np.float32).tobytes()
    size = chance.choice((len(pixels), 0, 10**15, -1, len(pixels) - 1))
    shape = chance.choice(([1, 3, 32, 32], [10**9] * 4, [0, 3, 32, 32], [1, 3, 1, 1024], [1, 3, 1024, 1], [3072]))
    entry = {"name": "pixel_values", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry]}).encode()
    length = chance.choice((str(len(text)), "0", "-1", str(10**18), "abc", str(len(text) - 1), ""))
    body = text + (pixels if chance.random() < 0.7 else mutated(pixels, chance))
    return [post(address, V2, body, {"Inference-Header-Content-Length": length})]


@kind
def _odd_sizes(address: Address, chance: random.Random) -> list[int]:
    sides = (1, 2, 3, 31, 33, 63, 97, 160)
    stream = io.BytesIO()
    Image.new(
        chance.choice(("RGB", "L", "RGBA", "1", "LA", "P")), (chance.choice(sides), chance.choice((*sides, 3000)))
    ).save(stream, "PNG")
    return [
        post(
            address,
            f"/v1/{chance.choice(ROUTES)}?size={chance.choice((*sides, 100_000, 2**40))}",
            stream.getvalue(),
            BYTES,
        )
    ]


@kind
def _other_methods(address: Address, chance: random.Random) -> list[int]:
    method = chance.choice(
        ("HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT", "PROPFIND", "get", "A" * 300)
    )
    path = chance.choice(
        ("/", "/v1/classify", "/v1/model", "/v2", V2, "/metrics", "/healthz", "/docs", "*", "http://other/v1/model")
    )
    return raw(address, head(method, path, "Origin: http://evil", "Access-Control-Request-Method: POST"), half=True)


@kind
def _pipelined(address: Address, chance: random.Random) -> list[int]:
    content = image_files()[0]
    one = (
        head("POST", "/v1/classify", f"Content-Length: {len(content)}", "Content-Type: image/jpeg").replace(
            b"Connection: close\r\n", b""
        )
        + content
    )
    count = chance.choice((2, 10, 40))
    last = head("GET", "/healthz")
    found = raw(address, one * count + last)
    if len(found) != count + 1 and 400 not in found:
        raise Finding(f"{count + 1} requests in one connection got {len(found)} answers")
    return found


@kind
def _leaves_in_the_middle(address: Address, chance: random.Random) -> list[int]:
    content = image_files()[0]
    whole = head("POST", route(chance), f"Content-Length: {len(content)}", "Content-Type: image/jpeg") + content
    return raw(address, whole[: chance.randrange(1, len(whole) + 1)], pause=chance.choice((0, 0.001, 0.02)), leave=True)


@kind
def _no_http(address: Address, chance: random.Random) -> list[int]:
    content = chance.choice(
        (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\x00" * 100,
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\r\n" * 500,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            chance.randbytes(300),
        )
    )
    return raw(address, content, half=True)


@kind
def _upgrades(address: Address, chance: random.Random) -> list[int]:
    lines = chance.choice(
        (
            [
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version: 13",
            ],
            ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
            ["Expect: 100-continue", "Content-Length: 5"],
            ["Expect: 200-ok"],
            ["Range: bytes=0-1,2-99999999999"],
        )
    )
    return raw(
        address,
        head("GET", chance.choice(("/", "/v1/model", "/docs")), *lines).replace(b"Connection: close\r\n", b"", 1),
        half=True,
    )


@kind
def _slow(address: Address, chance: random.Random) -> list[int]:
    """A client that sends a byte now and then, and leaves; many of these are open at the same time."""
    text = head("POST", "/v1/classify", "Content-Length: 1000", "Content-Type: image/jpeg") + bytes(20)
    at = chance.randrange(1, len(text))
    return raw(address, text[:at], *(text[n : n + 1] for n in range(at, min(at + 5, len(text)))), pause=0.1, leave=True)


@kind
def _wrong_deadline(address: Address, chance: random.Random) -> list[int]:
    value = chance.choice(("1", "0", "-1", "1e9", "nan", "9" * 400, "", "\xff", "5", "20"))
    return [post(address, "/v1/classify", image_files()[0], {**BYTES, "X-Deadline-Ms": value})]
