"""Tests see none of the user's files: a full cache of checkpoints, or other settings, change nothing."""

import os
import subprocess
import sys
from pathlib import Path


def in_a_users_session(code: str, home: Path) -> str:
    """What `code` prints after conftest was imported in the environment of a user whose caches are full."""
    cached = home / "hub" / "models--facebook--hiera-tiny-224-in1k-hf" / "snapshots" / "0" / "model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    user = {"HOME": home, "HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HIERAX_CACHE": home, "HIERAX_DEBUG": "1"}
    environment = {**os.environ, **{name: str(value) for name, value in user.items()}, "HF_HUB_OFFLINE": "0"}
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r}); import conftest, os\n{code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_users_caches_and_settings_are_out_of_sight(tmp_path: Path) -> None:
    code = (
        "from huggingface_hub import constants, try_to_load_from_cache\n"
        "print(try_to_load_from_cache('facebook/hiera-tiny-224-in1k-hf', 'model.safetensors'),"
        " constants.HF_HUB_OFFLINE, os.environ.get('HIERAX_DEBUG'),"
        f" {str(tmp_path)!r} in constants.HF_HUB_CACHE + os.environ['HIERAX_CACHE'] + os.path.expanduser('~'))"
    )
    assert in_a_users_session(code, tmp_path) == "None True None False"


def test_the_tests_own_home_is_gone_when_they_end(tmp_path: Path) -> None:
    home = in_a_users_session("print(os.environ['HOME'])", tmp_path)
    assert home
    assert not Path(home).exists()
