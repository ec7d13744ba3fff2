"""What all tests stand on: no network, folders of their own instead of the user's, and models small enough to be saved
and loaded in milliseconds.
"""

import atexit
import gc
import os
import random
import shutil
import signal
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def _isolate() -> dict[str, str]:
    """Gives the tests, and the commands that they start, a home and caches that nobody else uses.

    Called before the Hub's client is first imported, since that reads its settings then.

    Returns:
        The settings of the Hub's client of whoever runs the tests, for `pytest -m hub`.
    """
    foreign = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HIERAX_", "XDG_")
    own = {"HIERAX_SEED", "HIERAX_GOLDEN", "HIERAX_HUB_NUMBERS"}  # what the tests themselves are told
    theirs = {name: value for name, value in os.environ.items() if name.startswith(("HF_", "HUGGINGFACE_"))}
    theirs.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    terminal = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    for name in [n for n in os.environ if (n.startswith(foreign) and n not in own) or n in terminal]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="hierax-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    fonts = Path(
        tempfile.gettempdir(), f"hierax-tests-matplotlib-{os.getuid()}"
    )  # a list of fonts takes seconds to make
    os.environ |= {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HIERAX_CACHE": str(home / "hierax"),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR") or str(fonts),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return theirs


_HUB = _isolate()
# started in the background by a shell, or by nohup: the commands that tests start would inherit it
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The modules of torch and the tests are some million objects. To go through all of them again and again was a
# third of the time of the tests; what a test makes is collected as ever.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """`pytest -m hub` uses the network, and the cache of the Hub's client of whoever runs it."""
    if config.option.markexpr == "hub":
        os.environ |= {"HF_HUB_OFFLINE": "0", **_HUB}
        import huggingface_hub.constants  # noqa: F401  # reads its settings, before modules of other tests change them


def pytest_collection_finish() -> None:
    """What stands now stands to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()


def _seed(name: str) -> None:
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same numbers whatever ran before it."""
    _seed(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """So does a fixture that several tests share, and it leaves the numbers of the first of them as they were."""
    if fixturedef.scope == "function":
        return (yield)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed(f"{fixturedef.baseid}::{fixturedef.argname}")
    try:
        return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@pytest.fixture(scope="module", autouse=True)
def _freeze() -> Iterator[None]:
    """So does what the tests of a module have imported."""
    yield
    gc.collect()
    gc.freeze()


# helpers that are plugins too: an assertion that fails in them shows what it compared, as it does in a test
pytest.register_assert_rewrite("benches", "engines", "exports", "pictures")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a machine cannot test is said, not only counted: the page without a browser, the Hub without a network."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = {where[2].removeprefix("Skipped: ") for where in skipped if isinstance(where, tuple)}
    for reason in sorted(reason for reason in reasons if "NOT tested" in reason):
        terminalreporter.write_line(f"WARNING: {reason}", yellow=True, bold=True)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(cls, config, dialect=…, **arguments)` saves a model with random weights and returns its folder.

    `arguments` are passed to the class.
    """
    from hierax.checkpoint.save import save_model
    from small import randomize

    def save(cls: Any, config: Any, *, dialect: str = "transformers", **arguments: Any) -> Path:
        folder = tmp_path / f"{cls.__name__}-{sum(1 for _ in tmp_path.iterdir())}"
        model: Any = randomize(cls(config, **arguments)).eval()
        save_model(model, folder, dialect=dialect)
        return folder

    return save


@pytest.fixture
def features(saved: Callable[..., Path]) -> Path:
    """A folder with a small `HieraModel`."""
    from hierax import HieraModel
    from small import image_config

    return saved(HieraModel, image_config())


@pytest.fixture
def classifier(saved: Callable[..., Path]) -> Path:
    """A folder with a small image classifier of five classes."""
    from hierax import HieraForImageClassification
    from small import image_config

    return saved(HieraForImageClassification, image_config())


@pytest.fixture
def mae(saved: Callable[..., Path]) -> Path:
    """A folder with a small MAE model."""
    from hierax import HieraForPreTraining
    from small import image_config

    return saved(HieraForPreTraining, image_config(num_query_pool=2))


def pytest_make_parametrize_id(val: object) -> str | None:
    """The names of tests do not hold bytes, which may depend on the time: processes must find the same tests."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
