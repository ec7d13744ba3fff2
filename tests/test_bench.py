"""Benchmarks: what is computed from times, and how it is written down."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

import hierax
from benches import BF16, EAGER, FAST, FAST_BF16, FP32, INT8, SLOW, report
from hierax.benchmark import BenchReport, measure
from hierax.benchmark.contenders import multiply_accumulates
from hierax.benchmark.plot import plot
from hierax.benchmark.results import Ratio, summarize
from hierax.benchmark.tables import markdown

pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("small_and_private")


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_computed_from_the_times_of_its_calls() -> None:
    times = {FP32: [0.1 * n for n in range(1, 12)]}
    (timing,) = summarize(times, batch=3, gmacs=4.0, ceiling={"fp32": 40.0}, memory={FP32: 123.0})
    assert (timing.p50, timing.p90, timing.p99) == pytest.approx((600, 1000, 1090))
    assert timing.images_per_second == pytest.approx(5)
    assert timing.of_ceiling == pytest.approx(5 * 4 / 40)
    assert timing.peak_mib == 123
    assert timing.against is None


def test_a_ratio_is_the_median_over_rounds_and_not_the_ratio_of_medians() -> None:
    ratio = Ratio.of([1.0, 2.0, 4.0], FAST, [2.0, 12.0, 12.0])
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.5, 3.0, 4.5))


def test_engines_are_compared_with_the_fastest_other_in_their_precision_and_int8_with_fp32() -> None:
    whom = {t.contender: t.against and t.against.to for t in report().cells[0].timings}
    assert whom == {FP32: FAST, BF16: FAST_BF16, INT8: FAST, SLOW: None, FAST: None, FAST_BF16: None}


def test_the_precision_to_compare_with_can_be_named() -> None:
    times = {BF16: [1.0], FAST: [4.0], FAST_BF16: [2.0]}
    timings = summarize(times, batch=1, gmacs=1.0, ceiling={}, memory={}, against_precision="fp32")
    assert timings[0].against == Ratio(FAST, 4.0, 4.0, 4.0)


def test_without_others_engines_are_compared_with_the_eager_model() -> None:
    timings = summarize({FP32: [1.0], EAGER: [1.5]}, batch=1, gmacs=1.0, ceiling={}, memory={})
    assert [timing.against for timing in timings] == [Ratio(EAGER, 1.5, 1.5, 1.5), None]


def test_int8_is_held_against_the_ceiling_in_bf16_and_marked() -> None:
    timing = report().cells[1].timings[2]
    assert timing.of_ceiling == pytest.approx(4 / 0.05 * 5 / 200)
    assert any("| 2.00* |" in line for line in markdown(report()))


def test_every_round_calls_each_once_and_starts_with_another() -> None:
    seen: list[str] = []
    calls = {c: (lambda c=c: seen.append(c.precision)) for c in (FP32, BF16, INT8)}
    times = measure.interleaved(calls, seconds=0, rounds=3, tell=lambda *_: None)
    assert seen == ["fp32", "bf16", "int8", "bf16", "int8", "fp32", "int8", "fp32", "bf16"]
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in times.values())


def test_a_cell_goes_on_until_its_seconds_have_passed() -> None:
    times = measure.interleaved({FP32: lambda: None}, seconds=0.05, rounds=1, tell=lambda *_: None)
    assert len(times[FP32]) > 1


def test_work_is_counted_without_moving_the_model() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert multiply_accumulates(model, (3, 8)) == 3 * 8 * 4
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}


def test_attention_is_part_of_the_work() -> None:
    """By hand: patches; then per block queries, keys and values, attention, its output, the MLP; then the head."""
    config: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 1), "image_size": 64, "num_labels": 5}
    config |= {"num_query_pool": 1, "masked_unit_attention": (True, False), "masked_unit_size": (2, 2)}
    model = hierax.create_model("hiera_tiny_224", **config).eval()
    n, m = 16 * 16, 8 * 8  # tokens before and after pooling; those of a mask unit are 4
    in_units = n * 8 * 24 + 2 * n * 4 * 8 + n * 8 * 8 + 2 * n * 8 * 32
    pooling = n * 8 * 16 + n * 8 * 48 + 2 * m * 4 * 16 + m * 16 * 16 + 2 * m * 16 * 64
    everywhere = m * 16 * 48 + 2 * m * m * 16 + m * 16 * 16 + 2 * m * 16 * 64
    by_hand = n * 7 * 7 * 3 * 8 + in_units + pooling + everywhere + 16 * 5
    assert multiply_accumulates(model, (1, 3, 64, 64)) == by_hand


# -- what is written --------------------------------------------------------------------------------------------------


def test_a_report_survives_json() -> None:
    made = report()
    assert BenchReport.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["command"].startswith("hierax bench --model hiera_tiny_224")


def test_the_markdown_has_machine_versions_command_and_a_line_for_everyone() -> None:
    text = "\n".join(markdown(report()))
    assert "2026-01-02. a processor, 2 threads, 24 GiB, Linux; hierax 1.0, torch 2.13;\n`hierax bench" in text
    assert "| hierax openvino | bf16 | 100.0 | 100.0 | 100.0 | 40.0 | 1.00 | 300 | 3.00x (3.00 to 3.00) |" in text
    assert text.count("| b eager |") == 4
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(report(), tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").resize((100, 50)).tobytes())) > 10


def test_a_plot_names_its_formats_and_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report()
    with pytest.raises(ValueError, match=r"a plot is one of \.png, \.svg, \.pdf"):
        plot(made, tmp_path / "found.txt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'matplotlib>=3.8'"):
        plot(made, tmp_path / "found.png")
