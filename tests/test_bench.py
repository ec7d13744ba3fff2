"""Benchmarks: what is computed from times, who is compared with whom, and the scripts at toy size. Never a speed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import nn

import hierax
from hierax.engine import hardware
from hierax.engine.bench import BenchReport, bench, measure, peers
from hierax.engine.bench.contenders import Subject, multiply_accumulates, peak_memory, peak_resident_mib
from hierax.engine.bench.plot import plot
from hierax.engine.bench.results import Cell, Contender, Machine, Ratio, summarise
from hierax.engine.bench.settings import parse_size, resolve
from hierax.engine.bench.tables import markdown

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

FP32, BF16, INT8 = (Contender("hierax", "openvino", precision) for precision in ("fp32", "bf16", "int8"))
EAGER = Contender("hierax", "eager", "fp32")
SLOW, FAST, FAST_BF16 = (
    Contender(*parts) for parts in (("a", "eager", "fp32"), ("b", "eager", "fp32"), ("b", "eager", "bf16"))
)
SETTINGS: dict[str, Any] = {
    "sizes": None, "batches": (2,), "precisions": ("fp32",), "backends": ("torch",), "against": (), "seconds": 0,
    "against_precision": "auto", "rounds": 2, "threads": 1, "memory": False, "calibration": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products for the ceiling that take no time, and compiled models that are kept where nobody else looks."""
    monkeypatch.setattr(measure, "_SIDE", 64)
    monkeypatch.setattr(measure, "_CEILING_SECONDS", 0.0)
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))


def settings(**changes: Any) -> Any:
    return resolve(["hiera_tiny_224"], **{**SETTINGS, **changes})


def report(**changes: Any) -> BenchReport:
    """A report with made up times, in which everything occurs."""
    times = {FP32: [0.2, 0.2, 0.4], BF16: [0.1] * 3, INT8: [0.05] * 3, SLOW: [1.0] * 3, FAST: [0.4] * 3}
    ceiling, memory = {"fp32": 100.0, "bf16": 200.0}, dict.fromkeys(times, 300.0)
    timings = summarise({**times, FAST_BF16: [0.3] * 3}, batch=4, gmacs=5.0, ceiling=ceiling, memory=memory)
    cells = [
        Cell(model="m", size=(64, 96), batch=batch, rounds=3, gmacs=5.0, ceiling=ceiling, timings=timings, notes=("n",))
        for batch in (1, 4)
    ]
    machine, versions = Machine("a processor", 2, 24.0, "Linux"), {"hierax": "1.0", "torch": "2.13"}
    made = BenchReport(
        date="2026-01-02", machine=machine, versions=versions, settings=settings(), cells=tuple(cells)
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_computed_from_the_times_of_its_calls() -> None:
    times = {FP32: [0.1 * n for n in range(1, 12)]}
    (timing,) = summarise(times, batch=3, gmacs=4.0, ceiling={"fp32": 40.0}, memory={FP32: 123.0})
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
    timings = summarise(times, batch=1, gmacs=1.0, ceiling={}, memory={}, against_precision="fp32")
    assert timings[0].against == Ratio(FAST, 4.0, 4.0, 4.0)


def test_without_others_engines_are_compared_with_the_eager_model() -> None:
    timings = summarise({FP32: [1.0], EAGER: [1.5]}, batch=1, gmacs=1.0, ceiling={}, memory={})
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


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, "batches is 0; allowed: a whole number above 0"),
        ({"batches": ()}, "batches is"),
        ({"rounds": True}, "rounds is True"),
        ({"threads": -1}, "threads is -1"),
        ({"seconds": -1}, "seconds is -1; allowed: 0 or more"),
        ({"precisions": ("fp8",)}, "precisions has 'fp8'; allowed: fp32, bf16, int8"),
        ({"precisions": ("int8",)}, "precision is 'int8'; the backend 'torch' on cpu takes fp32, bf16"),
        ({"backends": ("tensorrt",)}, "backend is 'tensorrt'; allowed: auto, torch"),
        ({"against": ("jax",)}, "against has 'jax'; allowed: all, transformers, timm, official"),
        ({"against_precision": "int8"}, "against_precision is 'int8'; allowed: auto, fp32, bf16"),
        ({"sizes": ("large",)}, "sizes has 'large'; expected pixels"),
        ({"sizes": (0,)}, "sizes has 0"),
        ({"calibration": "nowhere"}, "calibration is 'nowhere', which is not there"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        bench(**{**SETTINGS, **changes})


def test_a_model_that_cannot_be_opened_is_refused_before_the_others_are_measured() -> None:
    told: list[str] = []
    with pytest.raises((ValueError, OSError), match="nowhere"):
        bench(["hiera_tiny_224", "./nowhere"], **SETTINGS, progress=lambda text, _: told.append(text))
    assert told == []


def test_each_backend_runs_the_precisions_that_it_has() -> None:
    found = settings(precisions=("fp32", "int8"), backends=("torch", "openvino", "auto")).engines
    assert found == (("fp32", "torch"), ("fp32", "openvino"), ("int8", "openvino"))


def test_a_backend_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed", lambda backend: backend == "torch")
    with pytest.raises(ImportError, match=r"pip install 'hierax\[openvino\]'"):
        settings(backends=("openvino",))


def test_sizes_are_squares_or_rows_by_columns() -> None:
    assert parse_size("", (224, 224), video=False) == (224, 224)
    assert parse_size("64", (224, 224), video=False) == (64, 64)
    assert parse_size("64x96", (224, 224), video=False) == (64, 96)
    assert parse_size("64", (16, 224, 224), video=True) == (16, 64, 64)
    with pytest.raises(ValueError, match="takes 3 axes"):
        parse_size("64x96", (16, 224, 224), video=True)


def test_the_command_of_a_run_says_what_it_measured() -> None:
    command = settings(sizes=("64", (64, 96)), against=("transformers",), memory=True).command
    assert command == (
        "hierax bench --model hiera_tiny_224 --batch 2 --precision fp32 --backend torch --size 64,64x96 "
        "--against transformers --seconds 0 --rounds 2 --threads 1"
    )


# -- the published implementations ------------------------------------------------------------------------------------


def test_one_that_is_named_must_import_and_all_takes_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers._PACKAGES, "timm", ("a_module_that_is_not_there", "timm"))
    monkeypatch.setitem(peers._PACKAGES, "official", ("json", "hiera-transformer"))
    assert "timm" not in peers.importable(["all"])
    assert "official" in peers.importable(["all"])
    with pytest.raises(ImportError, match=r"against 'timm': .* \(pip install timm\)"):
        peers.importable(["timm", "all"])


@pytest.mark.parametrize("name", ["tiny", "base_plus"])
@pytest.mark.parametrize("mae", [False, True])
def test_transformers_is_built_at_the_same_size(name: str, mae: bool) -> None:
    with torch.device("meta"):
        ours = hierax.create_model(f"{'mae_' if mae else ''}hiera_{name}_224")
        theirs = peers.PEERS["transformers"](name, mae)
    # MAE: both positions of transformers' decoder and encoder are counted as ours
    assert sum(p.numel() for p in theirs.parameters()) == pytest.approx(ours.num_parameters(), rel=2e-3)


@pytest.mark.peers
@pytest.mark.parametrize("library", ["timm", "official"])
def test_the_others_are_built_at_the_same_size(library: str) -> None:
    pytest.importorskip(peers._PACKAGES[library][0])
    theirs = peers.PEERS[library]("tiny", False)
    ours = hierax.create_model("hiera_tiny_224")
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_parameters()


def test_they_know_variants_of_pictures_at_their_own_size_only() -> None:
    assert peers.architecture("hiera_base_plus_224", (224, 224)) == "base_plus"
    assert peers.architecture("hiera_tiny_224", (224, 256)) is None
    for name in ("mae_hiera_tiny_224", "hiera_base_16x224", "hiera_small_abswin_256", "a/folder"):
        assert peers.architecture(name, (224, 224)) is None


def test_who_takes_part_and_who_does_not_is_said() -> None:
    known = Subject("hiera_tiny_224", "", 1)
    wanted = settings(precisions=("fp32", "bf16"), against=("transformers",))
    contenders, notes = measure.lineup(known, (224, 224), wanted)
    assert [str(c) for c in contenders] == [
        "hierax torch fp32",
        "hierax torch bf16",
        "hierax eager fp32",
        "transformers eager fp32",
        "transformers eager bf16",
    ]
    assert notes == []
    contenders, notes = measure.lineup(known, (64, 64), wanted)
    assert {c.library for c in contenders} == {"hierax"}
    assert notes == ["hiera_tiny_224 at 64x64 pixels: not among what transformers build by name"]


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_measures_every_contender_in_every_cell(classifier_folder: str) -> None:
    told: list[tuple[str, float]] = []
    found = bench(
        classifier_folder,
        sizes=(64, "64x96"),
        batches=(1, 3),
        precisions=("fp32", "bf16"),
        backends=("torch",),
        seconds=0,
        rounds=2,
        threads=1,
        memory=False,
        progress=lambda text, done: told.append((text, done)),
    )
    assert [(cell.size, cell.batch, cell.rounds) for cell in found.cells] == [
        ((64, 64), 1, 2), ((64, 64), 3, 2), ((64, 96), 1, 2), ((64, 96), 3, 2)
    ]  # fmt: skip
    for cell in found.cells:
        assert [t.contender.precision for t in cell.timings] == ["fp32", "bf16", "fp32"]
        assert all(t.of_ceiling for t in cell.timings)
    assert found.cells[3].gmacs > found.cells[0].gmacs
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert BenchReport.from_json(found.to_json()) == found


def test_a_mae_model_can_be_measured(mae_folder: str) -> None:
    (cell,) = bench(mae_folder, **SETTINGS).cells
    assert [t.contender.runtime for t in cell.timings] == ["torch", "eager"]


def test_the_weights_of_a_variant_are_the_same_every_time_and_leave_the_callers_draws_alone() -> None:
    state = torch.get_rng_state()
    one, other = (Subject("hiera_tiny_224", "64", 1).model() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.config.image_size == (64, 64)


def test_memory_is_that_of_a_process_of_its_own(classifier_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(classifier_folder).parent)
    ballast = torch.ones(100 << 20)  # 400 MiB here, which the other process must not be charged with
    subject = Subject(Path(classifier_folder).name, "", 1)
    found = peak_memory(Contender("hierax", "torch", "fp32"), subject, batch=2)
    assert 100 < found < peak_resident_mib() - ballast.numel() * 4 / 2**21


def test_memory_that_cannot_be_measured_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> float:
        raise RuntimeError("hierax eager fp32: killed")

    monkeypatch.setattr(measure, "peak_memory", failing)
    found, notes = measure._memory(Subject("m", "", 1), 1, [EAGER], lambda *_: None)
    assert found == {}
    assert notes == ["no memory: hierax eager fp32: killed"]


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"hierax eager fp32: .*nowhere"):
        peak_memory(EAGER, Subject("./nowhere", "", 1), batch=1)


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
    with pytest.raises(ImportError, match=r"pip install 'hierax\[plot\]'"):
        plot(made, tmp_path / "found.png")


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_numbers_and_a_plot(run: Run, classifier_folder: str) -> None:
    code, out, err = run(
        "bench", "--model", classifier_folder, "--batch", "1", "--precision", "fp32", "--seconds", "0", "--rounds", "2",
        "--threads", "1", "--against", "transformers", "--json", "new/found.json", "--plot", "found.png",
    )  # fmt: skip
    assert code == 0, err
    found = BenchReport.from_json(Path("new/found.json").read_text())
    (cell,) = found.cells
    assert [str(t.contender) for t in cell.timings] == ["hierax openvino fp32", "hierax eager fp32"]
    assert all(t.peak_mib and t.peak_mib > 100 for t in cell.timings)
    assert cell.title in out
    assert "hierax openvino  fp32" in out
    assert "not among what transformers build by name" in out
    assert all(len(line) <= 100 for line in out.splitlines() if line.startswith("  hierax"))
    assert Path("found.png").read_bytes().startswith(b"\x89PNG")
    assert err.endswith("wrote found.png\n")


def test_the_command_prints_markdown(run: Run, classifier_folder: str) -> None:
    code, out, _ = run(
        "bench", "--model", classifier_folder, "--batch", "2", "--precision", "fp32", "--backend", "torch",
        "--seconds", "0", "--rounds", "2", "--threads", "1", "--no-memory", "--markdown",
    )  # fmt: skip
    assert code == 0
    assert "| hierax torch | fp32 |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0"), "'0' is not a whole number above 0"),
        (("--batch", "1,,2"), "'1,,2' is not a list separated by commas"),
        (("--backend", "tensorrt"), "backend is 'tensorrt'"),
        (("--precision", "fp8"), "precisions has 'fp8'"),
        (("--against", "jax"), "against has 'jax'"),
        (("--model", "hiera_minute_224"), "hiera_minute_224"),
        (("--plot", "found.txt"), "a plot is one of .png, .svg, .pdf"),
    ],
)
def test_errors_of_the_command_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_names_the_extra_that_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    code, _, err = run("bench", "--plot", "found.png")
    assert (code, err) == (2, "hierax: a plot needs the package matplotlib: pip install 'hierax[plot]'\n")


# -- the scripts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`script("gpu")` is `benchmarks/gpu.py` as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported


def test_the_script_for_gpus_goes_through_all_its_code_at_toy_size(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = torch.compile

    def quick(model: Any, **options: Any) -> Any:
        return compiler(model, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", quick)
    script("gpu").main(
        ["--device", "cpu", "--tiny-run", "--models", "tiny", "--batches", "1,2", "--train-batch", "2",
         "--seconds", "0", "--rounds", "2", "--json", str(tmp_path / "found.json")]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "| hierax engine (graphs) |" in out
    assert "| official compiled |" in out
    assert "timm is left out: timm has no MAE" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["inference"][0]["best_rate"].keys() >= {"hierax engine (compile)", "timm compiled", "official eager"}
    assert found["training"][0]["ratio"].keys() == {"official", "transformers"}


def test_the_script_for_gpus_leaves_out_who_runs_out_of_memory(script: Any) -> None:
    gpu = script("gpu")
    taking_part = gpu.Bench("cpu", toy=True, seconds=0, rounds=2)

    def greedy() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert list(taking_part.interleaved({"greedy": greedy, "modest": lambda: None})) == ["modest"]


def test_an_engine_answers_many_threads_as_it_answers_one(
    script: Any, classifier_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script("engine_soak").main(
        ["--model", classifier_folder, "--calls", "60", "--callers", "4", "--precision", "fp32", "--backend", "torch",
         "--threads", "1", "--growth", "1"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0, out
    assert "60 calls" in out
    assert "0 errors" in out


def test_a_wrong_answer_of_the_soak_is_seen(script: Any) -> None:
    soak, answer = script("engine_soak"), torch.randn(2, 5)
    assert soak.distance(answer, answer, "fp32") == 0
    assert soak.distance(answer * 1.001, answer, "fp32") > 1
    assert soak.distance(answer.flip(0), answer, "bf16") > 1


@pytest.mark.slow
def test_starts_of_an_engine_are_timed(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("engine_start").main(["--runs", "1"]) in (0, 1)
    assert "| warm |" in capsys.readouterr().out
