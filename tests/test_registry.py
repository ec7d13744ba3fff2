"""The table of tasks: a new row and its class are all that opening, saving, running and exporting need."""

import dataclasses
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.checkpoint.save import convert, model_card
from hierax.engine import Engine
from hierax.model.outputs import Output
from hierax.model.registry import TASKS, TaskSpec, task_named, task_of, task_of_parts, task_with
from hierax.model.task import Task, states_of
from small import image_config


@dataclasses.dataclass
class CountOutput(Output):
    """Output of `HieraForCounting`."""

    counts: Tensor
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


class HieraForCounting(Task[CountOutput]):
    """A number for each channel of the last map."""

    def __init__(self, config: hierax.HieraConfig) -> None:
        super().__init__(config)
        self.counter = nn.Linear(config.hidden_size, 3)
        self.init_weights()

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool = False, output_attentions: bool = False
    ) -> CountOutput:
        """Counts `[B, 3]`."""
        features = self._encode(pixel_values, None, states=output_hidden_states, attentions=output_attentions)
        return CountOutput(self.counter(features.mean()), states_of(features, output_hidden_states)[1])


COUNTING = TaskSpec(
    name="counting", cls=HieraForCounting, output=CountOutput, outputs=("counts",), parts=("counter",), around=True,
    pipeline_tag="image-feature-extraction",
)  # fmt: skip


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> HieraForCounting:
    """A model of a task that this test adds."""
    monkeypatch.setitem(cast(dict[str, TaskSpec], TASKS), "counting", COUNTING)
    torch.manual_seed(0)
    return HieraForCounting(image_config()).eval()


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_new_task_is_saved_and_opened_by_what_its_files_hold(counting: HieraForCounting, tmp_path: Path) -> None:
    counting.save_pretrained(tmp_path / "model")
    opened = hierax.open_checkpoint(tmp_path / "model")
    assert opened.task == "counting"
    assert opened.dialect.name == "transformers"
    loaded = hierax.load(tmp_path / "model")
    assert type(loaded) is HieraForCounting
    assert torch.equal(loaded(pixels()).counts, counting(pixels()).counts)


def test_a_new_task_is_opened_without_its_configuration(counting: HieraForCounting, tmp_path: Path) -> None:
    torch.save(counting.state_dict(), tmp_path / "own.pt")
    loaded = hierax.load(tmp_path / "own.pt", config=counting.config)
    assert torch.equal(loaded(pixels()).counts, counting(pixels()).counts)


def test_a_new_task_begins_with_the_encoder_of_another(counting: HieraForCounting, tmp_path: Path) -> None:
    hierax.HieraForImageClassification(image_config()).save_pretrained(tmp_path / "classifier")
    loaded = hierax.load(tmp_path / "classifier", task="counting", reinit=("counter",))
    assert loaded.loading_report is not None
    assert loaded.loading_report.reinitialized == ["counter"]
    assert loaded.loading_report.ignored == ["head", "norm"]


def test_a_new_task_is_converted(counting: HieraForCounting, tmp_path: Path) -> None:
    counting.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the timm format has no name for the tensor counter\.weight"):
        convert(tmp_path / "model", tmp_path / "timm", to="timm")


def test_an_engine_runs_a_new_task(counting: HieraForCounting) -> None:
    engine = Engine(counting, backend="torch", precision="fp32", device="cpu")
    assert engine.task == "counting"
    out = engine(pixel_values=pixels())
    assert type(out) is CountOutput
    torch.testing.assert_close(out.counts, counting(pixels()).counts)


def test_a_new_task_is_exported_and_runs_from_the_export(counting: HieraForCounting, tmp_path: Path) -> None:
    hierax.export(counting, tmp_path / "export", format="onnx")
    engine = Engine(tmp_path / "export")
    assert engine.task == "counting"
    torch.testing.assert_close(engine(pixel_values=pixels())["counts"], counting(pixels()).counts, atol=1e-4, rtol=1e-4)


def test_the_card_of_a_new_task_names_its_class(counting: HieraForCounting) -> None:
    card = model_card(counting, "someone/counter")
    assert "from hierax import AutoImageProcessor, HieraForCounting" in card


def test_what_a_model_of_a_new_task_is_not_for_is_said(counting: HieraForCounting, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    counting.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="this model is for counting; classify needs a classifier"):
        list(hierax.classify(tmp_path / "a.png", model=tmp_path / "model"))


def test_every_row_is_found_by_its_name_its_class_and_its_part() -> None:
    for name, spec in TASKS.items():
        assert task_named(name) is spec
        assert task_of(spec.cls) is spec
        config = image_config() if not spec.clips else None
        if config is not None:
            assert task_with(spec.part, config) is spec
            assert task_of_parts({"encoder", *spec.parts}, config) is spec


def test_a_part_that_no_task_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="part is 'neck'; expected one of encoder, head, norm, segmentation, decoder"):
        task_with("neck", image_config())
