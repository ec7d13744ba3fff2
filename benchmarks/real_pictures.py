"""Whether MAE pretraining helps on real pictures: pretraining then fine-tuning against fine-tuning from scratch.

    python femto/fetch_drawings.py PICTURES
    python benchmarks/real_pictures.py PICTURES OUT [--size 96] [--pretrain-epochs 60] [--epochs 15] [--jobs 2]

Both arms take the same number of steps with the same recipe; only `source` differs, and the learning rate, which each
chooses from the same `--rates` by its mean top-1 after the last epoch (on the validation set, as both do). Seeds beyond
the first are run at the best rate alone, unless `--all-rates`. The claim holds if the difference of the means over the
seeds is larger than the largest difference between the seeds of one arm. Then a linear probe and nearest neighbors on
frozen features: of random weights, of the pretrained ones, and of the fine-tuned ones.

Everything can be interrupted and started again with the same command. `--stages` does a part, `--arms scratch` one arm,
so that it can run beside the pretraining. OUT gets the runs, `results.json`, `tables.md` and `curves.png` (matplotlib).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import hierax
from hierax.train import Recipe, RunExists, finetune, pretrain, recipe
from hierax.train.evaluation import evaluate, probe_features
from hierax.train.probe import PROBES

STAGES = ("pretrain", "finetune", "probe", "report")
ARMS = ("scratch", "pretrained")
PROBED = ("random", "pretrained", *(f"finetuned from {arm}" for arm in ARMS))
COLORS = {"scratch": "tab:orange", "pretrained": "tab:blue", "random": "tab:gray"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.rate:g}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Trial":
        """The inverse of `name`."""
        arm, rest = name.split("-", 1)
        rate, seed = rest.rsplit("-", 1)
        return cls(arm, float(rate), int(seed))


class Experiment:
    """The folders and settings of all runs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.a = arguments
        self.data, self.out = arguments.pictures / "labeled", arguments.out
        self.source = self.out / "pretrained"
        (self.out / "records").mkdir(parents=True, exist_ok=True)

    def overrides(self) -> Json:
        """Fields in which every model differs from the variant."""
        return {"embed_dim": self.a.width, **self.a.fields}

    def mae_overrides(self) -> Json:
        """Fields in which the masked autoencoder differs from the variant."""
        decoder = {"decoder_hidden_size": self.a.decoder_width, "decoder_depth": self.a.decoder_depth}
        return {**self.overrides(), **decoder, "decoder_num_heads": self.a.decoder_width // 32}

    def common(self) -> Json:
        """Settings that all runs share."""
        return {
            "image_size": (self.a.size,) * 2,
            "precision": self.a.precision,
            "workers": self.a.workers,
            "scale_lr": False,
        }

    def pretraining(self) -> Recipe:
        """The recipe of the one pretraining run."""
        a = self.a
        return recipe("mae_tiny_small_data_cpu").replace(
            **self.common(), overrides=self.mae_overrides(), epochs=a.pretrain_epochs,
            warmup_epochs=max(a.pretrain_epochs / 20, 1), batch_size=a.pretrain_batch, lr=a.pretrain_rate,
            mask_ratio=a.mask_ratio, target=a.target, crop_scale=(0.35, 1.0), validation_fraction=0.03,
            evaluate_every=max(a.pretrain_epochs // 6, 1), seed=0,
        )  # fmt: skip

    def finetuning(self, trial: Trial) -> Recipe:
        """The recipe of a trial: of both arms the same, but for the learning rate."""
        a = self.a
        return recipe("finetune_tiny_small_data_cpu").replace(
            **self.common(), overrides=self.overrides(), epochs=a.epochs,
            warmup_epochs=a.epochs / 10, batch_size=a.batch, lr=trial.rate, layer_decay=a.layer_decay,
            validation_fraction=0.0, seed=trial.seed, keep=1,
        )  # fmt: skip

    def record(self, name: str) -> Json:
        """What was kept about a run or a probe beside its folder."""
        return read(self.out / "records" / f"{name}.json")

    def keep(self, name: str, **values: Any) -> None:
        """Adds to `record`."""
        (self.out / "records" / f"{name}.json").write_text(json.dumps({**self.record(name), **values}) + "\n")

    def timed(self, name: str, call: Any) -> None:
        """Calls what starts or goes on with a run; one that is finished is left alone. Its seconds are added up."""
        started = time.perf_counter()
        try:
            call()
        except RunExists as error:
            if "finished" not in str(error):
                raise
            return
        finally:
            seconds = time.perf_counter() - started
            if seconds > 1:
                self.keep(name, seconds=round(self.record(name).get("seconds", 0) + seconds, 1))

    def pretrain(self) -> None:
        """The pretraining run."""
        chosen, data = self.pretraining(), self.a.pictures / "unlabeled"
        self.timed("pretrained", lambda: pretrain(data, out=self.source, recipe=chosen, device=self.a.device))

    def trial(self, trial: Trial) -> None:
        """One fine-tuning run, and an evaluation of the model that it leaves."""
        folder = self.out / "runs" / trial.name
        source = self.source if trial.arm == "pretrained" else None
        if source and not is_finished(source):
            raise SystemExit(f"{source} is not finished: run the stage pretrain first")
        chosen, device = self.finetuning(trial), self.a.device
        self.timed(trial.name, lambda: finetune(self.data, source=source, out=folder, recipe=chosen, device=device))
        if not is_finished(folder):
            raise SystemExit(f"{folder} was stopped; the same command goes on from there")
        if "evaluated" not in self.record(trial.name):
            found = evaluate(self.data, model=folder, device=device)
            self.keep(trial.name, evaluated={**found.metrics, "samples": found.count})

    def trials(self, arms: Sequence[str]) -> None:
        """All fine-tuning runs of these arms, `jobs` at a time, each in a process of its own."""
        first, *others = self.a.seeds
        self.start([Trial(arm, rate, first) for rate in self.a.rates for arm in arms])
        rates = {arm: self.a.rates if self.a.all_rates else [self.best_rate(arm)] for arm in arms}
        self.start([Trial(arm, rate, seed) for seed in others for arm in arms for rate in rates[arm]])

    def start(self, trials: Sequence[Trial]) -> None:
        """Runs trials in processes."""
        threads = max(len(os.sched_getaffinity(0)) // self.a.jobs, 1)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        names = [trial.name for trial in trials if "evaluated" not in self.record(trial.name)]
        commands = [[sys.executable, *sys.argv, "--only", name] for name in names]
        with ThreadPoolExecutor(self.a.jobs) as pool:
            list(pool.map(lambda command: subprocess.run(command, env=environment, check=True), commands))

    def best_rate(self, arm: str) -> float:
        """The rate whose trials ended best on average, over the seeds that were run at every rate."""
        seeds = self.a.seeds if self.a.all_rates else self.a.seeds[:1]
        return max(self.a.rates, key=lambda rate: mean_last(self.scores(arm, rate, seeds)))

    def scores(self, arm: str, rate: float, seeds: Sequence[int]) -> list[Json]:
        """Top-1 and top-5 of the finished trials of an arm at a rate."""
        folders = [(self.out / "runs" / Trial(arm, rate, seed).name, seed) for seed in seeds]
        return [{**score(folder), "seed": seed} for folder, seed in folders if is_finished(folder)]

    def probes(self) -> None:
        """Linear and nearest-neighbor probes of random, pretrained and fine-tuned weights."""
        models: dict[str, Path] = {"random": self.random_weights(), "pretrained": self.source}
        for arm in ARMS:
            if self.scores(arm, rate := self.best_rate(arm), self.a.seeds[:1]):
                models[f"finetuned from {arm}"] = self.out / "runs" / Trial(arm, rate, self.a.seeds[0]).name
        for name, folder in models.items():
            mark = str(folder.relative_to(self.out))
            if self.record(f"probe {name}").get("model") == mark or not folder.is_dir():
                continue
            found = {kind: probe_features(self.data, model=folder, kind=kind)[0] for kind in PROBES}
            self.keep(f"probe {name}", model=mark, **found)

    def random_weights(self) -> Path:
        """A folder with the model as it is before pretraining, looked at as the pretrained one looks at pictures."""
        folder = self.out / "random"
        if not folder.is_dir() and (self.source / "model").is_dir():
            torch.manual_seed(self.pretraining().seed)
            model = hierax.create_model("mae_hiera_tiny_224", image_size=self.a.size, **self.mae_overrides())
            model.preprocessing = hierax.load(self.source).preprocessing
            model.save_pretrained(folder)
        return folder


def read(path: Path) -> Json:
    """An object in a file of JSON; an empty one where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def is_finished(run: Path) -> bool:
    """Whether a run is."""
    return bool(read(run / "run.json").get("finished"))


def log_of(run: Path) -> list[Json]:
    """What a run logged."""
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def score(run: Path) -> Json:
    """Top-1 and top-5 in per cent after the last epoch and at the best one, and top-1 by step."""
    checks = [(entry["step"], entry["validation"]) for entry in log_of(run) if "validation" in entry]
    best_step, best = max(checks, key=lambda check: check[1]["top1"])
    (last_step, last) = checks[-1]
    return {
        "last": 100 * last["top1"], "last5": 100 * last["top5"], "best": 100 * best["top1"],
        "best5": 100 * best["top5"], "best_step": best_step, "steps": last_step,
        "curve": [(step, round(100 * found["top1"], 3)) for step, found in checks],
    }  # fmt: skip


def mean_last(scores: Sequence[Json]) -> float:
    """Mean top-1 after the last epoch; below all others without a score."""
    return statistics.mean(s["last"] for s in scores) if scores else -1.0


def arm_summary(experiment: Experiment, arm: str) -> Json:
    """The trials of an arm, and its scores at the rate that it chooses; empty while there are none."""
    rates, rate = experiment.a.rates, experiment.best_rate(arm)
    by_rate = {r: experiment.scores(arm, r, experiment.a.seeds) for r in rates}
    if not by_rate[rate]:
        return {}
    found: Json = {"rate": rate, "edge": rate in (min(rates), max(rates)), "seeds": len(by_rate[rate])}
    for key in ("last", "last5", "best", "best5"):
        values = [s[key] for s in by_rate[rate]]
        found[key] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    pairs = [(Trial(arm, r, s["seed"]), s) for r in rates for s in by_rate[r]]
    found["trials"] = [{"rate": trial.rate, **s, **experiment.record(trial.name)} for trial, s in pairs]
    return found


def summary(experiment: Experiment) -> Json:
    """Everything that was measured so far."""
    arms = {arm: found for arm in ARMS if (found := arm_summary(experiment, arm))}
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(experiment.a).items()}
    found: Json = {"settings": settings, "arms": arms}
    for key in ("last", "best"):
        if len(arms) == len(ARMS):
            margin = arms["pretrained"][key]["mean"] - arms["scratch"][key]["mean"]
            spread = max(arm[key]["max"] - arm[key]["min"] for arm in arms.values())
            found[f"{key} epoch"] = {"margin": margin, "spread": spread, "holds": margin > spread}
    log = log_of(experiment.source)
    found["pretraining"] = {
        **experiment.record("pretrained"),
        "loss": [(e["step"], e["loss"]) for e in log if "loss" in e],
        "validation": [(e["step"], e["validation"]["loss"]) for e in log if "validation" in e],
    }
    found["probes"] = {name: record for name in PROBED if (record := experiment.record(f"probe {name}"))}
    return found


def table(heading: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of Markdown."""
    rule = "|---" * (heading.count("|") + 1)
    return [f"| {heading} |", f"{rule}|", *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def tables(found: Json) -> str:
    """The summary as Markdown."""
    arms: dict[str, Json] = found["arms"]
    trials = [
        (arm, f"{t['rate']:g}", t["seed"], *(f"{t[key]:.1f}" for key in ("last", "last5", "best", "best5")),
         f"{t['best_step']} of {t['steps']}", round(t.get("seconds", 0)))
        for arm, values in arms.items() for t in values["trials"]
    ]  # fmt: skip
    lines = table("start | rate | seed | top-1 last | top-5 last | top-1 best | top-5 best | best at | seconds", trials)
    span = "{mean:.1f} ({min:.1f} to {max:.1f})".format_map
    keys, edge = ("last", "last5", "best"), {True: " (edge of the range)", False: ""}
    chosen = [
        (arm, f"{v['rate']:g}{edge[v['edge']]}", v["seeds"], *(span(v[k]) for k in keys)) for arm, v in arms.items()
    ]
    lines += table("start | chosen rate | seeds | top-1 last | top-5 last | top-1 best", chosen)
    for key in ("last epoch", "best epoch"):
        if key in found:
            margin, spread, verdict = (found[key][name] for name in ("margin", "spread", "holds"))
            lines.append(f"- {key}: margin {margin:+.1f}, largest max - min {spread:.1f}: holds is {verdict}")
    if found["probes"]:
        stages = list(next(iter(found["probes"].values()))["linear"])
        rows = [
            (name, kind, *(f"{100 * record[kind][stage]:.1f}" for stage in stages))
            for name, record in found["probes"].items() for kind in PROBES
        ]  # fmt: skip
        lines += ["", *table(f"frozen features of | probe | {' | '.join(stages)}", rows)]
    return "\n".join(lines) + "\n"


def draw(found: Json, path: Path) -> None:
    """Curves: validation top-1 by step, the loss of pretraining, and probes by stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.8), dpi=110)
    left, middle, right = figure.subplots(1, 3)
    for arm, values in found["arms"].items():
        for trial in values["trials"]:
            chosen = trial["rate"] == values["rate"]
            label = f"{arm}, learning rate {trial['rate']:g}" if chosen and trial["seed"] == 0 else None
            style: Json = {"alpha": 1.0, "linewidth": 1.6} if chosen else {"alpha": 0.25, "linewidth": 0.8}
            left.plot(*zip(*trial["curve"], strict=True), color=COLORS[arm], label=label, **style)
    left.set(xlabel="step", ylabel="top-1 on held-out pictures, %", title="fine-tuning (faint: the other rates)")
    for key, color in (("loss", "tab:blue"), ("validation", "tab:red")):
        if found["pretraining"][key]:
            middle.plot(*zip(*found["pretraining"][key], strict=True), color=color, label=key)
    middle.set(xlabel="step", ylabel="loss", title="pretraining")
    for name, record in found["probes"].items():
        for kind, line in zip(PROBES, ("-", "--"), strict=True):
            scores = [100 * value for value in record[kind].values()]
            color = COLORS.get(name, "tab:green" if name.endswith("pretrained") else "tab:orange")
            right.plot(list(record[kind]), scores, line, marker="o", color=color, label=f"{name}, {kind}")
    right.set(ylabel="top-1, %", title="probes of frozen features")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def report(experiment: Experiment) -> None:
    """Writes and prints what was measured so far."""
    found = summary(experiment)
    (experiment.out / "results.json").write_text(json.dumps(found) + "\n")
    (experiment.out / "tables.md").write_text(tables(found))
    draw(found, experiment.out / "curves.png")
    print(tables(found))


def several(kind: type) -> Any:
    """Reads what commas separate."""
    return lambda text: [kind(part) for part in text.split(",")]


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("pictures", type=Path, help="the folder that femto/fetch_drawings.py made")
    add("out", type=Path)
    add("--stages", nargs="+", choices=STAGES, default=STAGES)
    add("--arms", nargs="+", choices=ARMS, default=ARMS)
    add("--only", type=Trial.of, help="one trial by name, such as scratch-0.001-0")
    add("--size", type=int, default=96, help="pixels, a multiple of 32")
    add("--width", type=int, default=48, help="of the first stage; hiera_tiny has 96")
    add("--fields", type=json.loads, default={}, help="JSON of further fields of HieraConfig, such as depths")
    add("--decoder-width", type=int, default=128)
    add("--decoder-depth", type=int, default=2)
    add("--pretrain-epochs", type=int, default=60)
    add("--pretrain-batch", type=int, default=64)
    add("--pretrain-rate", type=float, default=1e-3)
    add("--mask-ratio", type=float, default=0.6)
    add("--target", default="normalized", choices=("normalized", "pixels", "hog"))
    add("--epochs", type=int, default=15)
    add("--batch", type=int, default=32)
    add("--rates", type=several(float), default=[3e-4, 1e-3, 3e-3], help="comma-separated")
    add("--seeds", type=several(int), default=[0, 1, 2], help="comma-separated")
    add("--all-rates", action="store_true", help="every seed at every rate")
    add("--layer-decay", type=float, default=1.0, help="of both arms")
    add("--precision", default="fp32", choices=("fp32", "bf16"))
    add("--device", default="cpu")
    add("--workers", type=int, default=0, help="processes that decode")
    add("--jobs", type=int, default=2, help="fine-tuning runs at a time")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Does the stages that are asked for."""
    arguments = parsed(argv)
    if not (arguments.pictures / "labeled").is_dir():
        raise SystemExit(f"{arguments.pictures} has no labeled/: femto/fetch_drawings.py makes it")
    experiment = Experiment(arguments)
    if arguments.only is not None:
        experiment.trial(arguments.only)
        return 0
    finetuning, reporting = partial(experiment.trials, arguments.arms), partial(report, experiment)
    work = (experiment.pretrain, finetuning, experiment.probes, reporting)
    for stage, call in zip(STAGES, work, strict=True):
        if stage in arguments.stages:
            call()
    return 0


if __name__ == "__main__":
    sys.exit(main())
