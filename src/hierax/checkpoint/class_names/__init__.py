"""The names of the classes of published data sets, as text files: one name per line, in the order of the logits.

`imagenet-1k.txt` contains the WordNet lemmas of the 1000 synsets ("tench, Tinca tinca"), and `kinetics-400.txt` the 400
names of actions in alphabetical order. `NOTICE` states their source.
"""

from functools import cache
from importlib.resources import files

LABEL_SETS = ("imagenet-1k", "kinetics-400")


@cache
def load_labels(name: str) -> tuple[str, ...]:
    """The class names of a data set; entry `i` names logit `i`.

    As in WordNet, ImageNet-1k has two classes called "crane" (134 is the bird, 517 the machine). So a mapping from name
    to index has one entry less than there are classes.

    Args:
        name: one of `LABEL_SETS`.

    Raises:
        ValueError: `name` is not one of them.
    """
    if name not in LABEL_SETS:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(LABEL_SETS)}")
    return tuple(files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())
