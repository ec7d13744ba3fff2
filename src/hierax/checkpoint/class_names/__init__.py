"""The names of the classes of published data sets, packaged as text files: one name a line, in the order of the logits.

`imagenet-1k.txt` holds the WordNet lemmas of the 1000 synsets ("tench, Tinca tinca"), `kinetics-400.txt` the 400
action names in alphabetical order. `NOTICE` beside them says where they come from.
"""

from functools import cache
from importlib.resources import files

LABEL_SETS = ("imagenet-1k", "kinetics-400")


@cache
def load_labels(name: str) -> tuple[str, ...]:
    """The class names of a data set; entry `i` names logit `i`.

    ImageNet-1K has two classes called "crane" (134 the bird, 517 the machine), as WordNet has: a mapping from name to
    index built from these names has one entry less than there are classes.

    Args:
        name: one of `LABEL_SETS`.

    Raises:
        ValueError: `name` is not one of them.
    """
    if name not in LABEL_SETS:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(LABEL_SETS)}")
    return tuple(files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())
