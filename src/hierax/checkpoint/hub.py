"""Downloads files from the Hugging Face Hub, with its client. Failures are `OSError`s that say what to do."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hierax.advice import did_you_mean
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.checkpoint.records import checkpoint_names, find_record

_TOKEN = "set the variable HF_TOKEN to your token (in Python, token= does the same)"


@dataclass(frozen=True)
class HubOptions:
    """The options for the client of the Hub. `unreachable` is True if the Hub did not respond."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    unreachable: bool = False


class NotCached(OSError):
    """The Hub cannot be reached, and the file is not in the local cache.

    Attributes:
        repository: the id that was requested.
        instead: a bundled checkpoint for the same task; None for clips.
    """

    def __init__(self, repository: str, file: str, reason: str) -> None:
        self.repository, self._file, self._reason = repository, file, reason
        record = find_record(repository)
        self.instead: str | None = FEMTO_MAE if record is not None and record.task == "mae" else FEMTO
        if record is not None and record.preprocessing == "kinetics":
            self.instead = None
        super().__init__(self.advising())

    def __reduce__(self) -> tuple[type["NotCached"], tuple[str, str, str]]:
        return NotCached, (self.repository, self._file, self._reason)

    def advising(self, option: str = "") -> str:
        """The message: what happened, and what works offline. `option` is the option of the command for a
        checkpoint.
        """
        lacking = "" if self._file == "config.json" else f" ({self._file} is lacking)"  # config.json is requested first
        other = f"{option} {self.instead}".lstrip() if self.instead else "a folder or file"
        near = _near(self.repository) + _not_here(self.repository) if not lacking else ""
        return f"{self.repository} is not in the local cache{lacking} and {self._reason}{near}; {other} works offline"


def fetch(repository: str, file: str, hub: HubOptions) -> Path | None:
    """The cached path of a file of a repository, which is downloaded if needed; None if the repository has no such
    file.

    Raises:
        NotCached: there is no connection (or none is allowed), and the file is not in the cache.
        OSError: the Hub refused the request, or the download failed.
        ValueError: `repository` is not a valid repository id.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = hub.local_files_only or hub.unreachable
    options = {"cache_dir": hub.cache_dir, "token": hub.token, "local_files_only": local}
    try:
        return Path(hf_hub_download(repository, file, revision=hub.revision, **options))
    except LocalEntryNotFoundError:
        if _known_absent(repository, file, hub):
            return None
        switched_off = not hub.unreachable and (hub.local_files_only or constants.HF_HUB_OFFLINE)
        reason = "the Hub is switched off" if switched_off else "the Hub cannot be reached"
        raise NotCached(repository, file, reason) from None
    except GatedRepoError:
        raise OSError(f"{repository}: request access to it on the Hub, then {_TOKEN}") from None
    except RepositoryNotFoundError:
        near = _near(repository) + _not_here(repository)
        raise OSError(f"{repository}: no such repository on the Hub{near} (if it is private, {_TOKEN})") from None
    except RevisionNotFoundError:
        raise OSError(f"{repository}: no revision {hub.revision!r} on the Hub") from None
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ValueError(f"{repository}: no file, no folder, and no Hub id either ({error})") from None
    except OSError:
        raise
    except Exception as error:  # the HTTP library of the client raises its own errors
        raise OSError(f"{repository}: {file} could not be fetched ({type(error).__name__}: {error})") from error


def _near(repository: str) -> str:
    """A suggestion: the published checkpoint with the id that is most similar to an unknown id."""
    return "" if find_record(repository) else did_you_mean(repository, checkpoint_names())


def _not_here(repository: str) -> str:
    """A text for an id that was perhaps meant as the path of a folder: its parent is here."""
    parent, _, name = repository.partition("/")
    return f"; the folder {parent} is here, but has no {name}" if Path(parent).is_dir() else ""


_SILENT: dict[str, float] = {}
"""For each address of a Hub that did not respond: the time of the monotonic clock until which it is not asked again."""
_SILENT_FOR = 60.0


def reached(repository: str, file: str, hub: HubOptions, *, now: Callable[[], float] = time.monotonic) -> HubOptions:
    """The options, with `unreachable` set if a request about a file gets no response within ten seconds.

    The client itself would wait for half a minute, for every file, even if all files are in the cache. Any response of
    the Hub is left to the client. A Hub that does not respond is not asked again for a minute.

    Args:
        repository, file, hub: the file, and the options.
        now: seconds on a monotonic clock.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if hub.local_files_only or constants.HF_HUB_OFFLINE:
        return hub
    if now() < _SILENT.get(constants.ENDPOINT, 0.0):
        return replace(hub, unreachable=True)
    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=hub.revision), token=hub.token, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return hub
    except Exception:  # errors of the HTTP library of the client, which differ between versions
        _SILENT[constants.ENDPOINT] = now() + _SILENT_FOR
        return replace(hub, unreachable=True)
    return hub


def _known_absent(repository: str, file: str, hub: HubOptions) -> bool:
    """Whether the cache has stored that the repository has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    cache = None if hub.cache_dir is None else Path(hub.cache_dir)
    return try_to_load_from_cache(repository, file, cache_dir=cache, revision=hub.revision) is _CACHED_NO_EXIST
