"""Downloads remote sources, with limits of time and size, and clear reasons for failures."""

from __future__ import annotations

import base64
import contextlib
import glob
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from functools import cache
from typing import BinaryIO, cast

from hierax.collection.content import read_file
from hierax.extras import explain

SECONDS = 10
"""Seconds without data after which a request fails."""

_WHOLE = 120  # maximum seconds for a complete file
_LARGEST = 1 << 30  # maximum bytes of a file
_CHUNK = 1 << 20
_BUSY = (429, 502, 503, 504)  # temporary errors: the request is repeated
_WAITS = (0.5, 2.0)  # seconds before each repetition
_SAFE = "%/:=&?~#+!$,;'@()*[]"
_WEB = ("http", "https")


class UrlError(OSError):
    """The content of a URL cannot be downloaded. The message says why."""


def protocols_of(url: str) -> tuple[str, ...]:
    """The scheme of a URL, or the schemes of a chain of fsspec (`zip://a.jpg::s3://bucket/b.zip`), in lower case."""
    return tuple(part.partition("://")[0].lower() for part in url.split("::"))


def check_client(url: str) -> None:
    """Checks that the packages that download a URL are installed.

    Raises:
        MissingPackage: a package is missing; names it, and what installs it.
    """
    _check_clients(protocols_of(url))


@cache
def _check_clients(protocols: tuple[str, ...]) -> None:
    from fsspec import get_filesystem_class

    for protocol in protocols:
        if protocols != (protocol,) or protocol not in _WEB:
            try:
                get_filesystem_class(protocol)
            except ImportError as error:
                raise explain(f"a URL of {protocol}://", error) from None
            except ValueError:  # unknown: a source that cannot be read, as others
                continue


def urls_at(given: str, suffixes: Collection[str]) -> list[str]:
    """The URLs that a URL names: itself, the files of a folder with these suffixes, or the matches of a pattern.

    Raises:
        ValueError: it cannot be listed. MissingPackage: a package for it is missing; names it.
    """
    is_file = os.path.splitext(given)[1].lower() in suffixes and not glob.has_magic(given.partition("?")[0])
    if is_file and protocols_of(given)[0] in _WEB:
        return [given]
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(given)
        if glob.has_magic(path):
            found = sorted(system.glob(path))
        elif system.isdir(path):
            found = sorted(p for p in system.find(path) if os.path.splitext(p)[1].lower() in suffixes)
        else:
            return [given]
        return [system.unstrip_protocol(entry) for entry in found]
    except ImportError as error:
        raise explain(given, error) from None
    except Exception as error:  # network clients raise their own errors
        raise ValueError(f"{given}: {error}") from None


def read_url(url: str) -> bytes:
    """All bytes of a URL.

    Raises:
        OSError, ValueError, or another error of a network client: the URL cannot be downloaded.
    """
    if protocols_of(url) == ("file",):
        return read_file(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    with _open(url) as stream:
        return _all_of(stream)


def copy_url(url: str, file: BinaryIO) -> None:
    """Writes the content of a URL, of any size, into a file.

    Raises:
        The errors of `read_url`.
    """
    with _open(url) as stream:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)


@contextlib.contextmanager
def _open(url: str) -> Iterator[BinaryIO]:
    if protocols_of(url)[0] in _WEB and "::" not in url:
        with _answer(url) as answer:
            yield answer
        return
    import fsspec

    try:
        with fsspec.open(url, "rb") as stream:
            yield cast(BinaryIO, stream)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.strerror or "no such file") from error


def _all_of(stream: BinaryIO) -> bytes:
    parts, size = [], 0
    while chunk := stream.read(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > _LARGEST:
            raise UrlError(f"more than {_LARGEST:,} bytes")
    return b"".join(parts)


# -- the web -----------------------------------------------------------------------------------------------------------


class _Answer:
    """The body of a response, which must be complete and arrive in time."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response, self._end = response, time.monotonic() + _WHOLE
        length = response.headers.get("Content-Length", "")
        self._length, self._got = int(length) if length.isdecimal() else None, 0

    def read(self, count: int) -> bytes:
        """The next bytes; empty at the end."""
        if time.monotonic() > self._end:
            raise UrlError(f"not complete after {_WHOLE} s")
        try:
            chunk = self._response.read1(count)
        except (OSError, http.client.HTTPException) as error:
            raise UrlError(_reason(error)) from error
        self._got += len(chunk)
        if not chunk and self._length is not None and self._got < self._length:
            raise UrlError(f"the response ended after {self._got:,} of {self._length:,} bytes")
        return chunk


@contextlib.contextmanager
def _answer(url: str) -> Iterator[BinaryIO]:
    with _fetch(url) as response:
        yield cast(BinaryIO, _Answer(response))


def _fetch(url: str) -> http.client.HTTPResponse:
    """The response of a server. If the server is busy, the request is repeated."""
    request = _request(url)
    for wait in (*_WAITS, None):
        try:
            return urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:  # noqa: PERF203  (at most three times)
            error.close()
            if error.code not in _BUSY or wait is None:
                raise UrlError(_status(error)) from None
            after = error.headers.get("Retry-After", "") if error.headers else ""
            time.sleep(min(int(after), SECONDS) if after.isdecimal() else wait)
        except (OSError, http.client.HTTPException) as error:
            raise UrlError(_reason(error)) from error
    raise AssertionError("not reached")


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode() if not (parts.hostname or "").isascii() else parts.hostname
    if not host:
        raise UrlError("no host in this URL")
    place = f"[{host}]" if ":" in host else host
    place += f":{parts.port}" if parts.port else ""
    quoted = (urllib.parse.quote(text, safe=_SAFE) for text in (parts.path, parts.query))
    request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, place, *quoted, "")))
    request.add_header("User-Agent", "hierax")  # some servers refuse the default of Python
    if parts.username is not None:
        known = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
    return request


def _status(error: urllib.error.HTTPError) -> str:
    """The status of a response as text, such as `404 Not Found`."""
    if 300 <= error.code < 400:
        return f"too many redirects ({error.code})"
    reason = str(error.reason or http.client.responses.get(error.code, "")).strip()
    return f"{error.code} {reason}".strip()


def _reason(error: BaseException) -> str:
    """The reason why there is no response."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"no response within {SECONDS} s"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return f"the response ended after {len(error.partial):,} bytes"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
