"""What all tests stand on: no network, folders of their own instead of the user's, and models small enough to be saved
and loaded in milliseconds.
"""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _isolate() -> None:
    """Gives the tests, and the commands that they start, a home and caches that nobody else uses.

    Called before the Hub's client is first imported, since that reads its settings then.
    """
    foreign = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HIERAX_", "XDG_")
    own = {"HIERAX_SEED", "HIERAX_GOLDEN"}  # what the tests themselves are told
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


_isolate()
# started in the background by a shell, or by nohup: the commands that tests start would inherit it
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The modules of torch and the tests are some million objects. To go through all of them again and again was a
# third of the time of the tests; what a test makes is collected as ever.
gc.disable()


def pytest_collection_finish() -> None:
    """What stands now stands to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _freeze() -> Iterator[None]:
    """So does what the tests of a module have imported."""
    yield
    gc.collect()
    gc.freeze()


# helpers that are plugins too: an assertion that fails in them shows what it compared, as it does in a test
pytest.register_assert_rewrite("benches", "engines", "exports", "pictures")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a machine cannot test is said, and not only counted: the page without a browser."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    reasons = {where[2] for where in skipped if isinstance(where, tuple)}
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
