"""Names of training, validation and test sets, for folders and for splits of tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = {
    "training": ("training", "train", "trn"),
    "validation": ("validation", "valid", "val", "dev", "development", "evaluation", "eval"),
    "test": ("testing", "test", "tst"),
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words}
_AROUND = re.compile(r"(?:set|split|data|dataset|images|imgs|videos|\d{4})$")  # train_set, val2017


def kind_of(name: str) -> str | None:
    """The kind of split that a name means: "training", "validation" or "test". It knows names such as Train, TRAINING,
    val, valid, dev, test_set and val2017. None for other names.
    """
    plain = re.sub(r"[\W_]+", "", name).lower()
    return _KIND.get(plain) or _KIND.get(_AROUND.sub("", plain))


def find_splits(names: Sequence[str], *, of: str) -> tuple[str | None, str | None]:
    """The training set among these names, and the validation set; if there is none, a test set.

    Raises:
        ValueError: there are two training sets in `of`.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(kind_of(name) or "", []).append(name)
    training = found.get("training", [])
    if len(training) > 1:
        raise ValueError(f"{of} holds {len(training)} training sets, {' and '.join(training)}; expected one")
    held = [*found.get("validation", []), *found.get("test", [])]
    return next(iter(training), None), next(iter(held), None)
