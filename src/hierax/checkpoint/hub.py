"""Files of repositories on the Hugging Face Hub, through its client; failures are `OSError`s that say what to do."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hierax.advice import did_you_mean
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.checkpoint.records import checkpoint_names, find_record


@dataclass(frozen=True)
class HubOptions:
    """Options for the Hub's client. `unreachable` is set when the Hub did not answer."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    unreachable: bool = False


class NotCached(OSError):
    """The Hub is out of reach and the local cache does not have the file.

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
        """What happened, and what works offline. `option` is the command line's option for a checkpoint."""
        lacking = "" if self._file == "config.json" else f" ({self._file} is lacking)"  # the first to be looked for
        other = f"{option} {self.instead}".lstrip() if self.instead else "a folder or file"
        near = _near(self.repository) if not lacking else ""
        return f"{self.repository} is not in the local cache{lacking} and {self._reason}{near}; {other} works offline"


def fetch(repository: str, file: str, hub: HubOptions) -> Path | None:
    """The cached path of a repository's file, fetched if need be; None where the repository has no such file.

    Raises:
        NotCached: there is no connection (or none is allowed), and the cache does not have the file.
        OSError: the Hub refused, or the transfer failed.
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
        raise OSError(f"{repository}: access to it must be asked for on the Hub; pass token=") from None
    except RepositoryNotFoundError:
        near = _near(repository)
        raise OSError(f"{repository}: no such repository on the Hub{near} (a private one needs token=)") from None
    except RevisionNotFoundError:
        raise OSError(f"{repository}: no revision {hub.revision!r} on the Hub") from None
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ValueError(f"{repository}: no file, no folder, and no Hub id either ({error})") from None
    except OSError:
        raise
    except Exception as error:  # the client's HTTP library has errors of its own
        raise OSError(f"{repository}: {file} could not be fetched ({type(error).__name__}: {error})") from error


def _near(repository: str) -> str:
    """A suggestion: the published checkpoint whose id is most like an unknown one."""
    return "" if find_record(repository) else did_you_mean(repository, checkpoint_names())


_SILENT: dict[str, float] = {}
"""Until when a Hub that gave no answer, by its address, is taken to be silent: seconds of the monotonic clock."""
_SILENT_FOR = 60.0


def reached(repository: str, file: str, hub: HubOptions, *, now: Callable[[], float] = time.monotonic) -> HubOptions:
    """The options, marked `unreachable` when one question about a file gets no answer within ten seconds.

    The client itself would ask for half a minute, for every file, even if it has all of them in the cache. What the
    Hub does answer is left to the client. A Hub that is silent is not asked again for a minute.

    Args:
        now: seconds on a clock that only goes forward.
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
    except Exception:  # of the client's HTTP library, which differs between versions
        _SILENT[constants.ENDPOINT] = now() + _SILENT_FOR
        return replace(hub, unreachable=True)
    return hub


def _known_absent(repository: str, file: str, hub: HubOptions) -> bool:
    """Whether the cache remembers from an earlier visit that the repository has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    cache = None if hub.cache_dir is None else Path(hub.cache_dir)
    return try_to_load_from_cache(repository, file, cache_dir=cache, revision=hub.revision) is _CACHED_NO_EXIST
