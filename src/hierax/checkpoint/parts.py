"""Finds the weights of a Hiera in a file: their container and their prefix.

Training scripts store more than one model in a file (`model` and `model_ema`, `teacher` and `student`), and wrappers
add a prefix to the names of tensors (`module.`, `_orig_mod.`, `model.` of Lightning). No list of such names is needed:
every Hiera has a weight of the patch embedding, and its name shows the prefix.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

OURS = ("encoder.pos_embed.weight", "encoder.pos_embed.spatial", "encoder.pos_embed.whole")
"""The names of position tables in hierax; all other formats name a single tensor `pos_embed`."""
SAM_2 = "weights of SAM 2 without the patch embedding of its image encoder"
_THEIRS = ("hiera.embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.weight")
_PATCH = "patch_embed.proj.weight"
_SAM_2 = ("trunk.patch_embed.proj.weight", "backbone.patch_embed.projection.weight", "patch_embed.projection.weight")
"""The names in SAM 2, whose trunk stands beside its neck. Other models are called trunk or backbone, too."""
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What wrappers of PyTorch add anywhere in a name, also before a single block."""
_DEEPEST, _MOST, _MOST_MODELS = 5, 1000, 16  # maximum depth of containers, number of containers, models in a container


@dataclass(frozen=True)
class Weights:
    """One model in a file.

    Attributes:
        part: the name that selects it: the name of its container or prefix; empty if it is the whole file.
        prefix: the prefix that was removed from its names.
        tensors: its tensors, without the prefix.
        beside: names of tensors in its container that do not have the prefix.
    """

    part: str
    prefix: str
    tensors: dict[str, Tensor]
    beside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Selection:
    """The model to open, and the parts of the other models in the file."""

    weights: Weights
    others: tuple[str, ...] = ()


def choose(loaded: Mapping[Any, Any], part: str | None = None, *, any_of_them: bool = False) -> Selection:
    """Finds the model in the content of a file.

    If the file contains a model and its exponential moving average, the average is read, as in timm. Other models need
    `part`.

    Args:
        loaded: the content of the file.
        part: which model, by its container or prefix, such as "model_ema" or "teacher".
        any_of_them: if there are several, read the first.

    Raises:
        ValueError: the file contains no model, or several, or none with the name `part`; the message lists the models.
    """
    found = list(_distinct(_models(loaded)))
    names = [weights.part for weights in found]
    if part is not None:
        asked = part.strip(".")
        fits = [w for w in found if w.part == asked] or [w for w in found if asked in w.part.split(".")]
        if not fits and isinstance(loaded.get(asked), Mapping):  # another name of the same tensors
            fits = list(_models({asked: loaded[asked]}))
        if len(fits) != 1:
            there = f"it holds {_quoted(names)}" if any(names) else "it holds a single model; leave part out"
            raise ValueError(f"part is {part!r}; {there}" if found else contents(loaded))
        return Selection(fits[0], tuple(name for name in names if name != fits[0].part))
    if not found:
        raise ValueError(contents(loaded))
    averages = [weights for weights in found if _is_average(weights.part)]
    if len(found) > 1 and len(averages) != 1 and not any_of_them:
        raise ValueError(
            f"holds {len(found)} models, {_quoted(names)}; pass part={names[0]!r} or another of them "
            "(hierax convert --part)"
        )
    chosen = averages[0] if len(averages) == 1 else found[0]
    return Selection(chosen, tuple(name for name in names if name != chosen.part))


def contents(loaded: Mapping[Any, Any]) -> str:
    """One sentence about the content of a file without weights of a Hiera."""
    for path, container in _containers(loaded):
        names = [str(name) for name, value in container.items() if isinstance(value, Tensor)]
        if is_sam2(names):
            return SAM_2
        if names:
            where = f"in {_plain('.'.join(path)):.80}, " if path else ""
            return f"no Hiera weights; {where}its tensors begin with {', '.join(_plain(n)[:80] for n in names[:3])}"
    told = [f"{_plain(name):.40} ({type(value).__name__})" for name, value in list(loaded.items())[:8]]
    more = f" and {len(loaded) - 8} more" if len(loaded) > 8 else ""
    return f"holds no tensors, only {', '.join(told)}{more}" if told else "holds no tensors"


def is_sam2(names: Iterable[str]) -> bool:
    """Whether these are tensors of SAM 2 or of its trunk, judged by the name of its position table for windows."""
    return any(name.endswith("pos_embed_window") for name in names)


def _plain(name: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(name))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _is_average(part: str) -> bool:
    return not {"ema", "average"}.isdisjoint(part.lower().replace(".", "_").split("_"))


def _models(loaded: Mapping[Any, Any]) -> Iterator[Weights]:
    """Yields every model in a file, the outermost containers first."""
    for path, container in _containers(loaded):
        names = {_unwrapped(str(key)): str(key) for key, value in container.items() if isinstance(value, Tensor)}
        prefixes = list(dict.fromkeys(p for p in (_prefix(name, names) for name in names) if p is not None))
        if len(prefixes) > _MOST_MODELS:
            raise ValueError(f"holds {len(prefixes)} models in one container; expected at most {_MOST_MODELS}")
        for prefix in prefixes:
            inner = [p for p in prefixes if p != prefix and p.startswith(prefix)]
            mine = [n for n in names if n.startswith(prefix) and not n.startswith(tuple(inner))]
            alone = len(prefixes) == 1
            part = ".".join([*path, *([] if alone else [prefix.strip(".")])]).strip(".")
            yield Weights(
                part,
                _prefix_as_written(names[mine[0]], prefix),
                _named_ours({name[len(prefix) :]: container[names[name]] for name in mine}),
                [key for name, key in names.items() if not name.startswith(prefix)] if alone else [],
            )


def _containers(loaded: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yields the mappings in a file, breadth first, each once: a hostile file may contain the same one a
    million times.
    """
    seen = {id(loaded)}
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), loaded)]
    for path, container in waiting:
        yield path, container
        if len(path) == _DEEPEST:
            continue
        for name, value in container.items():
            if (
                isinstance(name, (str, int))
                and isinstance(value, Mapping)
                and id(value) not in seen
                and len(waiting) < _MOST
            ):
                seen.add(id(value))
                waiting.append(((*path, str(name)), value))


def _prefix(name: str, names: Container[str]) -> str | None:
    """The prefix of a Hiera, if this tensor is the weight of a patch embedding; None for every other tensor."""
    for end in (*_THEIRS, *_SAM_2, _PATCH):
        if name == end or name.endswith("." + end):
            prefix = name[: -len(end)]
            if end in _SAM_2 and f"{name.rpartition('patch_embed.')[0]}pos_embed_window" not in names:
                continue
            outer = prefix.removesuffix("encoder.")  # a part of our models, or somebody's name for all of theirs
            return outer if outer != prefix and any(outer + table in names for table in OURS) else prefix
    return None


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _prefix_as_written(key: str, prefix: str) -> str:
    """The prefix as it is in the file, with the names of wrappers."""
    end = 0
    while _unwrapped(key[:end]) != prefix or any(key[end:].startswith(w) for w in _WRAPPERS):
        end += 1
        if end > len(key):
            return prefix
    return key[:end]


def _named_ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the state dict of a bare encoder of hierax to the names inside a model; other tensors are not changed."""
    bare = _PATCH in tensors and any(t.removeprefix("encoder.") in tensors for t in OURS)
    return {f"encoder.{name}": tensor for name, tensor in tensors.items()} if bare else tensors


def _distinct(models: Iterator[Weights]) -> Iterator[Weights]:
    """Yields models that have different tensors; the same tensors under another name are dropped."""
    seen: set[frozenset[tuple[str, int]]] = set()
    for weights in models:
        key = frozenset((name, id(tensor)) for name, tensor in weights.tensors.items())
        if key not in seen:
            seen.add(key)
            yield weights
