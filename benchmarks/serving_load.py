"""Sends requests to a server on loopback, cheaply, and times the answers: used by serving.py, in a process of its own.

    python benchmarks/serving_load.py PORT closed --connections 16 --seconds 10 IMAGE...
    python benchmarks/serving_load.py PORT open --rate 50 --seconds 10 IMAGE...

`closed` sends the next request when the answer is there; `open` sends at random times, whatever the server does. It
prints one JSON object: for every request its start (s), latency (s), status, and image, and what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

_MOST = 1500
"""Connections of an open load; a request that finds none is not sent, and counted."""


class Connection(asyncio.Protocol):
    """One connection, which sends a request at a time."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._need = 0
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection opens."""
        self.transport = cast("asyncio.Transport", transport)  # that of uvloop is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ends."""
        self.transport = None
        self._answer(0, str(exc or "closed").encode())

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        self._data += data
        if not self._need:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._data[:end]).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            self._need = end + 4 + int(length or 0)
        if len(self._data) >= self._need:
            status, body = int(self._data[9:12]), bytes(self._data[self._data.find(b"\r\n\r\n") + 4 : self._need])
            self._data, self._need = self._data[self._need :], 0
            self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 if the connection ended."""
        if self.transport is None:
            return 0, b"not connected"
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._done


class Load:
    """Sends requests and keeps what came of them.

    Args:
        port: of the server on this machine.
        path: of the route.
        images: files; their names and answers tell whether an answer belongs to its request.
        seconds: how long requests are sent.
    """

    def __init__(self, port: int, path: str, images: Sequence[Path], seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._requests = [request(path, image.name, image.read_bytes()) for image in images]
        self._names = [image.name.encode() for image in images]
        self._expected: list[bytes] = []
        self.rows: list[tuple[float, float, int, int]] = []
        self.wrong: list[str] = []
        self.unsent = 0

    async def open(self) -> Connection:
        """A new connection."""
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]

    async def learn(self) -> None:
        """Asks for every image alone: what its answer is."""
        connection = await self.open()
        for one in self._requests:
            status, body = await connection.ask(one)
            assert status == 200, body
            self._expected.append(body)

    async def one(self, connection: Connection, number: int, begin: float) -> None:
        """Sends a request and notes its answer."""
        started = time.perf_counter()
        status, body = await connection.ask(self._requests[number])
        self.rows.append((started - begin, time.perf_counter() - started, status, number))
        if status == 200 and self._expected and (problem := difference(self._expected[number], body)):
            self.wrong.append(problem)
        elif status not in (200, 429, 503):
            self.wrong.append(f"{status}: {body[:200]!r}")

    async def closed(self, connections: int) -> None:
        """Requests one after another on each of several connections."""
        begin = time.perf_counter()

        async def client(first: int) -> None:
            connection, number = await self.open(), first
            while time.perf_counter() - begin < self._seconds:
                await self.one(connection, number % len(self._requests), begin)
                number += 1

        await asyncio.gather(*(client(first) for first in range(connections)))

    async def at_rate(self, rate: float) -> None:
        """Requests at random times, `rate` per second on average."""
        dice, idle, tasks, count = random.Random(0), [], set(), 0
        begin = due = time.perf_counter()

        async def send(number: int) -> None:
            while idle and idle[-1].transport is None:  # the server has closed it, as it was idle for long
                idle.pop()
            connection = idle.pop() if idle else await self.open()
            await self.one(connection, number, begin)
            if connection.transport is not None:
                idle.append(connection)

        while due - begin < self._seconds:
            if (wait := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            due += dice.expovariate(rate)
            if len(tasks) >= _MOST:
                self.unsent += 1
                if not self.unsent % 100:
                    await asyncio.sleep(0)
                continue
            task = asyncio.create_task(send(count % len(self._requests)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
        await asyncio.gather(*tasks)


def request(path: str, name: str, content: bytes) -> bytes:
    """A request with an image in a form, as curl -F sends it."""
    boundary = b"serving0123456789"
    part = b'Content-Disposition: form-data; name="image"; filename="' + name.encode() + b'"\r\n'
    body = b"--" + boundary + b"\r\n" + part + b"Content-Type: image/jpeg\r\n\r\n" + content
    body += b"\r\n--" + boundary + b"--\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n".encode()
    return head + b"Content-Type: multipart/form-data; boundary=" + boundary + b"\r\n\r\n" + body


def difference(expected: bytes, found: bytes) -> str:
    """What is wrong with an answer; "" if nothing is. Batches of other sizes round otherwise, in bf16 by a percent."""
    [one], [other] = json.loads(expected)["results"], json.loads(found)["results"]
    if one["name"] != other.get("name") or "predictions" not in other:
        return f"expected an answer for {one['name']}, found {str(other)[:200]}"
    mine, theirs = one["predictions"][0]["probability"], other["predictions"][0]["probability"]
    return "" if abs(mine - theirs) <= 0.05 * mine else f"{one['name']}: probability {theirs}; expected {mine}"


async def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the load."""
    load = Load(arguments.port, arguments.path, arguments.images, arguments.seconds)
    if arguments.check:
        await load.learn()
    if arguments.kind == "closed":
        await load.closed(arguments.connections)
    else:
        await load.at_rate(arguments.rate)
    return {"rows": load.rows, "wrong": load.wrong, "unsent": load.unsent}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=("closed", "open"))
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--path", default="/v1/classify?top_k=5")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--check", action="store_true")
    try:
        import uvloop  # pyright: ignore[reportMissingImports]

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    json.dump(run(main(parser.parse_args())), sys.stdout)
