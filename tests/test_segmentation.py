"""Semantic segmentation: logits of every pixel, their loss, the two heads, and checkpoints of all kinds as a start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hierax
from hierax.checkpoint.save import save_model
from hierax.model.config import HieraConfig, variant_config
from sam2_small import sam_config
from small import abs_win_config, image_config, pixels, randomize, video_config
from tasks import EVERY

HEADS = ("linear", "fpn")
TRUNKS = {
    "classic": image_config,
    "abs-win": abs_win_config,
    "windows": lambda **changes: image_config(window_sizes=(8, 4, 14, 7), global_blocks=(4,), **changes),
    "SAM 2": sam_config,
    "SAM 2 with a neck": lambda **changes: sam_config(fpn_hidden_size=16, **changes),
}
SIZES = [(64, 64), (50, 37), (96, 130), (3, 1)]


def model(config: HieraConfig | None = None, *, head: str = "fpn", std: float = 0.1, **changes: Any) -> Any:
    """A small model with random weights in eval mode."""
    fields = {"segmentation_head": head, "segmentation_hidden_size": 16, **changes}
    made = hierax.HieraForSemanticSegmentation((config or image_config()).replace(**fields))
    randomize(made, std)
    return made.eval()


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_logits_have_the_size_of_the_image_or_of_the_labels(head: str, trunk: str) -> None:
    net = model(TRUNKS[trunk](), head=head)
    for height, width in SIZES:
        x = pixels(net.config, size=(height, width))
        assert net(x).logits.shape == (2, 5, height, width)
        assert net(x, torch.zeros(2, 33, 70, dtype=torch.long)).logits.shape == (2, 5, 33, 70)
        assert net.coarse_logits(x).shape == (2, 5, -(-height // 4), -(-width // 4))


@torch.no_grad()
def test_logits_are_the_coarse_logits_enlarged() -> None:
    net, x = model(), torch.randn(2, 3, 64, 96)
    coarse = net.coarse_logits(x)
    assert torch.equal(net(x).logits, F.interpolate(coarse, (64, 96), mode="bilinear"))
    labels = torch.zeros(2, 200, 100, dtype=torch.long)
    assert torch.equal(net(x, labels).logits, F.interpolate(coarse, (200, 100), mode="bilinear"))


def test_a_side_that_is_no_multiple_of_4_cuts_the_last_cell() -> None:
    """A logit stays where its pixels are: the cells after the first stand for 4 pixels each, as in a larger image."""
    net, coarse = model(), torch.arange(13.0).expand(1, 5, 13, 13)
    cut = net.enlarged(coarse, (50, 49))
    assert torch.equal(cut, F.interpolate(coarse, (52, 52), mode="bilinear")[..., :50, :49])
    assert torch.equal(
        net.enlarged(coarse, (50, 50), (100, 25)), net.enlarged(coarse, (52, 52), (104, 26))[..., :100, :25]
    )


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_the_head_sees_a_neighborhood_and_not_the_whole_image(head: str) -> None:
    """Its norms are over channels, so that what stands far away, or the size of the image, changes nothing."""
    segmentation = model(head=head).segmentation
    maps = [torch.randn(1, 16 // n, 64 // n, c) for n, c in zip((1, 2, 4, 8), (8, 16, 32, 64), strict=True)]
    left = [rows[:, :, : rows.shape[2] // 2] for rows in maps]
    torch.testing.assert_close(segmentation(maps)[..., :8], segmentation(left)[..., :8], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (video_config(), r"image_size is \(8, 64, 64\); expected \(height, width\) for semantic segmentation"),
        (image_config(num_labels=0), "num_labels is 0; expected at least one label"),
    ],
)
def test_what_cannot_be_segmented_is_refused(config: HieraConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierax.HieraForSemanticSegmentation(config)


# -- heads ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_linear_head_is_one_linear_layer_on_all_enlarged_maps() -> None:
    net, x = model(head="linear"), torch.randn(2, 3, 64, 128)
    maps = net(x, output_hidden_states=True).reshaped_hidden_states[1:]
    head = net.segmentation
    normed = [norm(rows).movedim(-1, 1) for norm, rows in zip(head.norms.values(), maps, strict=True)]
    joined = torch.cat([F.interpolate(m, (16, 32), mode="bilinear") for m in normed], 1)
    weight = torch.cat([layer.weight for layer in head.classifier.values()], 1)
    expected = F.conv2d(joined, weight[..., None, None], head.classifier["stage1"].bias)
    torch.testing.assert_close(net.coarse_logits(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_fpn_head_adds_each_level_to_the_finer_one() -> None:
    """A second implementation, on maps with channels first."""
    net, x = model(), torch.randn(2, 3, 64, 128)
    maps = net(x, output_hidden_states=True).reshaped_hidden_states[1:]
    head, level, total = net.segmentation, torch.zeros(0), torch.zeros(0)
    for name, rows in reversed(list(zip(EVERY[1:], maps, strict=True))):
        lateral = head.laterals[name](head.norms[name](rows)).permute(0, 3, 1, 2)
        level = lateral if name == "stage4" else lateral + F.interpolate(level, scale_factor=2, mode="bilinear")
        found = F.conv2d(level.contiguous(), head.convs[name].weight, padding=1)
        found = F.gelu(head.conv_norms[name](found.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        total = found if name == "stage4" else found + F.interpolate(total, scale_factor=2, mode="bilinear")
    expected = head.classifier(total.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(net.coarse_logits(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pools", [1, 2])
@torch.no_grad()
def test_fewer_poolings_have_maps_of_one_stride_twice(head: str, pools: int) -> None:
    net = model(image_config(num_query_pool=pools), head=head)
    assert net(torch.randn(1, 3, 50, 64)).logits.shape == (1, 5, 50, 64)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_bfloat16_gives_nearly_the_same_logits_in_float32(head: str) -> None:
    net, x = model(head=head), torch.randn(2, 3, 64, 96)
    exact = net(x).logits
    rounded = net.to(torch.bfloat16)(x.to(torch.bfloat16)).logits
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


@torch.no_grad()
def test_dropout_stands_before_the_classifier_and_only_in_training() -> None:
    for head in HEADS:
        net, x = model(head=head, dropout=0.5), torch.randn(1, 3, 64, 64)
        assert torch.equal(net(x).logits, net(x).logits)
        net.train()
        assert not torch.equal(net(x).logits, net(x).logits)


# -- loss -------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    net, x, labels = model(), torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 40, 50))
    labels[0, :30] = 255
    out = net(x, labels)
    assert out.loss is not None
    rows, wanted = out.logits.movedim(1, -1)[labels != 255], labels[labels != 255]
    torch.testing.assert_close(out.loss, F.cross_entropy(rows, wanted))
    assert torch.equal(net(x, labels=labels.to(torch.uint8)).loss, out.loss)


def test_labels_that_are_all_ignored_give_a_loss_of_0_with_gradients() -> None:
    net = model()
    out = net(torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255))
    assert float(out.loss.detach()) == 0
    out.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.segmentation.parameters())


def test_the_number_that_is_ignored_can_be_changed_after_building() -> None:
    net, x, labels = model(), torch.randn(1, 3, 64, 64), torch.randint(0, 5, (1, 64, 64))
    net.config.semantic_loss_ignore_index = 0
    out = net(x, labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels, ignore_index=0))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 1, 64, 64), r"labels has shape \[2, 1, 64, 64\]; expected \[2, height, width\]"),
        (torch.zeros(3, 64, 64).long(), r"labels has shape \[3, 64, 64\]; expected \[2, height, width\]"),
        (torch.zeros(2, 64, 64), r"labels has dtype torch.float32; expected integers"),
        (torch.full((2, 64, 64), 7), "labels holds 7; expected 0 to 4, or 255 for pixels that do not count"),
        (torch.full((2, 64, 64), -1), "labels holds -1; expected 0 to 4"),
    ],
)
def test_wrong_labels_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model()(torch.randn(2, 3, 64, 64), labels)


def test_more_than_255_classes_need_another_number_to_ignore() -> None:
    net, labels = model(num_labels=300), torch.full((1, 64, 64), 255)
    with pytest.raises(ValueError, match="semantic_loss_ignore_index is 255, which is one of the 300 classes"):
        net(torch.randn(1, 3, 64, 64), labels)
    net.config.semantic_loss_ignore_index = -100
    assert net(torch.randn(1, 3, 64, 64), labels).loss > 0


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_parameter_gets_a_gradient_at_any_size(head: str, trunk: str) -> None:
    net = model(TRUNKS[trunk](), head=head).train()
    net(torch.randn(2, 3, 50, 70), torch.randint(0, 5, (2, 50, 70))).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_gradients_of_the_head_are_what_a_change_does(head: str) -> None:
    net = model(head=head).double()
    x, labels = torch.randn(1, 3, 33, 40, dtype=torch.float64), torch.randint(0, 5, (1, 33, 40))
    labels[0, :5] = 255
    parameters = dict(net.segmentation.named_parameters())
    gradients = torch.autograd.grad(net(x, labels).loss, list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        step = torch.randn_like(parameter)
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                parameter.add_(step, alpha=sign * 1e-6)
                losses.append(net(x, labels).loss)
                parameter.sub_(step, alpha=sign * 1e-6)
        found = (losses[0] - losses[1]) / 2e-6
        torch.testing.assert_close(found, (gradient * step).sum(), rtol=1e-5, atol=1e-8, msg=name)


def test_hidden_states_and_attentions_have_gradients() -> None:
    net = model()
    out = net(torch.randn(1, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    shown = [*out.hidden_states, *out.attentions, *out.reshaped_hidden_states]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out.logits.square().sum(), shown))


def test_the_output_is_read_as_those_of_transformers() -> None:
    net, x = model(), torch.randn(1, 3, 64, 64)
    assert net(x).keys() == ("logits",)
    assert net(x, torch.zeros(1, 64, 64, dtype=torch.long)).keys() == ("loss", "logits")
    assert isinstance(net(x, return_dict=False), tuple)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_a_model_is_saved_and_opened(head: str, trunk: str, tmp_path: Path) -> None:
    net = model(TRUNKS[trunk](), head=head, id2label={0: "sky", 1: "sea"}, semantic_loss_ignore_index=-1)
    net.save_pretrained(tmp_path)
    opened = hierax.open_checkpoint(tmp_path)
    assert (opened.task, opened.labels) == ("segmentation", ("sky", "sea"))
    again = hierax.load(tmp_path)
    assert type(again) is hierax.HieraForSemanticSegmentation
    assert again.config.replace(extra={}) == net.config.replace(extra={})
    x = torch.randn(1, 3, 50, 70)
    assert torch.equal(again(x).logits, net(x).logits)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_bare_tensors_state_the_head(head: str, tmp_path: Path) -> None:
    net = hierax.HieraForSemanticSegmentation(
        variant_config("hiera_tiny_224", num_labels=3, segmentation_head=head)
    ).eval()
    torch.save(net.state_dict(), tmp_path / "own.pt")
    again = hierax.load(tmp_path / "own.pt")
    assert type(again) is hierax.HieraForSemanticSegmentation
    assert (again.config.segmentation_head, again.config.num_labels) == (head, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def starts(tmp_path: Path) -> dict[str, Path]:
    """One checkpoint of every other kind."""
    made: dict[str, Any] = {
        "classifier": hierax.HieraForImageClassification(image_config()),
        "features": hierax.HieraModel(image_config()),
        "mae": hierax.HieraForPreTraining(image_config(num_query_pool=2, mask_ratio=0.5)),
        "backbone": hierax.HieraBackbone(image_config(), out_features=EVERY, norms=True),
        "sam2": hierax.HieraBackbone(sam_config(), out_features=EVERY[1:]),
        "sam2-neck": hierax.HieraBackbone(sam_config(fpn_hidden_size=16)),
    }
    for name, net in made.items():
        randomize(net)
        net.save_pretrained(tmp_path / name)
    save_model(made["sam2"], tmp_path / "sam2-official", dialect="official")
    save_model(made["sam2"], tmp_path / "sam2-timm", dialect="timm")
    return {path.name: path for path in sorted(tmp_path.iterdir())}


def test_every_kind_of_checkpoint_is_a_start(tmp_path: Path) -> None:
    for name, path in starts(tmp_path).items():
        net = hierax.HieraForSemanticSegmentation.from_pretrained(path, num_labels=3)
        report = net.loading_report
        assert report is not None, name
        assert report.reinitialized == ["segmentation"], name
        assert net.config.num_labels == 3, name
        assert net.config.num_query_pool == 3, name
        encoder = hierax.Hiera.from_pretrained(path, num_query_pool=3)
        x = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            assert torch.equal(net.encoder(x).map(4), encoder(x).map(4)), name
            assert net(x).logits.shape == (1, 3, 64, 96), name
        net.save_pretrained(tmp_path / "again")
        assert type(hierax.load(tmp_path / "again")) is type(net), name


def test_the_neck_of_sam_2_is_not_loaded(tmp_path: Path) -> None:
    hierax.HieraBackbone(sam_config(fpn_hidden_size=16)).save_pretrained(tmp_path)
    net = hierax.load(tmp_path, task="segmentation", num_labels=2)
    assert net.loading_report is not None
    assert net.loading_report.ignored == ["pyramid"]
    assert not any("pyramid" in name for name in net.state_dict())


def test_a_checkpoint_without_the_head_says_what_to_do(tmp_path: Path) -> None:
    hierax.HieraForImageClassification(image_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the file is for classification.*reinit=\('segmentation',\).*or num_labels="):
        hierax.load(tmp_path, task="segmentation")


def test_other_classes_get_a_new_classifier_and_keep_the_rest_of_the_head(tmp_path: Path) -> None:
    net = model()
    net.save_pretrained(tmp_path)
    again: Any = hierax.load(tmp_path, num_labels=7)
    assert again.loading_report.reinitialized == ["segmentation.classifier"]
    assert torch.equal(again.segmentation.laterals["stage1"].weight, net.segmentation.laterals["stage1"].weight)
    kept = hierax.load(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert kept.loading_report is not None
    assert kept.loading_report.reinitialized == []


def test_another_head_is_made_on_request(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no place for segmentation.*; pass reinit=\('segmentation',\) for random"):
        hierax.load(tmp_path, segmentation_head="linear")
    wider: Any = hierax.load(tmp_path, num_labels=2, segmentation_hidden_size=24)
    assert wider.loading_report.reinitialized == ["segmentation"]
    net: Any = hierax.load(tmp_path, segmentation_head="linear", reinit=("segmentation",))
    assert net.loading_report.reinitialized == ["segmentation"]
    assert type(net.segmentation).__name__ == "LinearHead"


def test_a_segmentation_model_is_the_start_of_other_tasks(tmp_path: Path) -> None:
    net = model()
    net.save_pretrained(tmp_path)
    backbone: Any = hierax.load(tmp_path, task="backbone", out_features=("stage2",))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(x).feature_maps[0].movedim(1, -1), net.encoder(x, stages=(2,)).grid(2))
    classifier = hierax.load(tmp_path, task="classification", num_labels=3, reinit=("norm",))
    assert classifier.loading_report is not None
    assert classifier.loading_report.ignored == ["segmentation"]


def test_folders_of_other_tasks_without_the_new_fields_open_as_before(tmp_path: Path) -> None:
    import json

    hierax.HieraForImageClassification(image_config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for name in ("segmentation_head", "segmentation_hidden_size", "semantic_loss_ignore_index"):
        del values[name]
    path.write_text(json.dumps(values))
    opened = hierax.load(tmp_path)
    assert type(opened) is hierax.HieraForImageClassification
    assert opened.config.segmentation_head == "fpn"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("head", HEADS)
def test_tracing_passes_its_own_check(head: str) -> None:
    """The check runs without gradients, and must find the same graph."""
    net = model(head=head)
    x = pixels(net.config)
    traced: Any = torch.jit.trace(net, x, strict=False)
    assert torch.allclose(traced(x)[0], net(x).logits, atol=1e-6)
