"""Windows of any size by stage, as in the trunks of SAM 2, and the layouts of their tokens."""

import copy
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import hierax
from hierax.engine.fold import fold
from hierax.model.config import HieraConfig, list_models, variant_config
from hierax.model.encoder import Hiera
from hierax.model.plan import plan
from hierax.model.tokens import UnitLayout, pool
from hierax.model.windows import WindowLayout, layouts
from plain import encoder, every_map, every_stage, plain_maps
from sam2_small import sam_config, trunk_in_transformers
from small import image_config, randomize, video_config

SIZES = [(64, 64), (224, 224), (256, 256), (320, 480), (96, 64), (33, 50)]


# -- configuration -------------------------------------------------------------------------------------------------


def test_a_block_has_the_windows_of_its_input_s_stage() -> None:
    assert [b.window for b in plan(sam_config())] == [
        (8, 8),
        (8, 8),  # the first of stage 2: the keys are tokens of stage 1
        (4, 4),
        (4, 4),
        None,
        (14, 14),
        (14, 14),
        (7, 7),
    ]


@pytest.mark.parametrize("name", list_models("*hiera_*[0-9]"))
def test_classic_models_have_their_mask_units_as_windows(name: str) -> None:
    config = variant_config(name)
    for spec in plan(config):
        of_input = spec.stage - (spec.dim != spec.dim_out)
        unit = UnitLayout.of(config, of_input).size
        assert spec.window == (unit if config.masked_unit_attention[of_input] else None)


def test_windows_of_the_mask_units_are_the_classic_model() -> None:
    classic = image_config()
    assert plan(classic.replace(window_sizes=(8, 4, 0, 0))) == plan(classic)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_sizes": (8, 4, 14)}, r"window_sizes is \(8, 4, 14\); expected 4 numbers of tokens, one per stage"),
        ({"window_sizes": (8, 4, -1, 7)}, "window_sizes is .* expected 4 numbers"),
        ({"window_sizes": 14}, "window_sizes is 14; expected 4 numbers"),
        ({"window_sizes": (8, 4, 7, 7)}, "expected a multiple of 2 in stage 3, after which tokens are pooled"),
        ({"window_sizes": (8, 3, 0, 4)}, "expected a multiple of 2 in stage 2"),
        ({"global_blocks": (4, 4)}, "global_blocks is .* expected numbers of blocks from 0 to 7, ascending"),
        ({"global_blocks": (8,)}, "global_blocks is .* from 0 to 7"),
        ({"global_blocks": [5, 4]}, "global_blocks is .* ascending"),
        ({"window_sizes": None}, r"global_blocks is \(4,\); expected \(\) without window_sizes"),
        ({"position_antialias": None}, "position_antialias is None; expected one of True, False"),
    ],
)
def test_wrong_windows_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sam_config(**changes)


def test_clips_have_no_windows() -> None:
    with pytest.raises(ValueError, match=r"window_sizes is .* expected None for clips"):
        video_config(window_sizes=(8, 4, 14, 7))


def test_windows_are_kept_in_the_file_of_the_configuration() -> None:
    config = sam_config()
    assert HieraConfig.from_dict(config.to_dict()) == config


# -- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "groups"), [((28, 14), 1), ((30, 14), 2), ((14, 20), 2), ((20, 30), 4), ((6, 6), 1)])
def test_a_grid_splits_into_whole_windows_and_remainders(grid: tuple[int, int], groups: int) -> None:
    layout = WindowLayout.over(grid, UnitLayout((14, 14), (2, 2), 1))
    assert len(layout.groups) == groups
    assert layout.whole == (grid == (28, 14))
    assert sum(group.tokens for group in layout.groups) == math.prod(grid)
    slots = sum(math.prod(group.windows) * (group.unit.positions + group.missing) for group in layout.groups)
    assert slots == math.prod(-(-tokens // 14) * 14 for tokens in grid)


@pytest.mark.parametrize("grid", [(9,), (20, 30), (28, 14), (6, 4), (10, 14, 22)])
def test_tokens_are_put_in_order_and_back(grid: tuple[int, ...]) -> None:
    axes = len(grid)
    layout = WindowLayout.over(grid, UnitLayout((8,) * axes, (2,) * axes, 1 if grid != (9,) else 0))
    rows = torch.randn(2, *grid, 3)
    tokens = layout.unroll(rows)
    assert tokens.shape[1] == 1
    assert torch.equal(layout.reroll(tokens), rows)
    assert torch.equal(layout.join(layout.split(tokens)), tokens)


def test_pooling_follows_the_grid() -> None:
    layout = WindowLayout.over((20, 30), UnitLayout((14, 14), (2, 2), 1))
    rows = torch.randn(2, 20, 30, 3)
    tokens = layout.join([pool(part, 4) for part in layout.split(layout.unroll(rows))])
    expected = rows.unflatten(1, (10, 2)).unflatten(3, (15, 2)).amax((2, 4))
    assert torch.equal(layout.pooled().reroll(tokens), expected)
    assert layout.pooled().window == (7, 7)


def test_the_order_of_tokens_changes_once() -> None:
    windows = [layout.window for layout in layouts(sam_config(), (64, 64))]
    assert windows == [(8, 8), (4, 4), (14, 14), (7, 7), (7, 7)]


# -- the encoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_a_plain_encoder_that_fills_windows_with_zeros(size: tuple[int, int]) -> None:
    model, x = encoder(sam_config()).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.no_grad():
        ours, expected = every_map(every_stage(model, x)), plain_maps(model, padded)
    for stage, (map_, plain) in enumerate(zip(ours, expected, strict=True)):
        cells = tuple(slice(n) for n in map_.shape[2:])
        torch.testing.assert_close(
            map_, plain[(..., *cells)], rtol=1e-9, atol=1e-11, msg=lambda m, s=stage: f"{s}: {m}"
        )


def drawn_config(draw: random.Random) -> HieraConfig:
    """A small random model with windows."""
    axes, stages = draw.choice((1, 2, 2, 3)), draw.randint(2, 4)
    pools = draw.randint(0, stages - 1)
    sizes = [draw.choice((0, 2, 3, 4, 6, 7, 8, 12)) for _ in range(stages)]
    for stage in range(stages):
        sizes[stage] += sizes[stage] % 2 if stage < pools else 0
    depths = tuple(draw.randint(1, 3) for _ in range(stages))
    blocks = range(sum(depths))
    return HieraConfig(
        image_size=(32,) * axes,
        embed_dim=8,
        depths=depths,
        num_heads=tuple(draw.choice((1, 2, 4)) for _ in range(stages)),
        num_query_pool=pools,
        masked_unit_size=(2**pools,) * axes,
        masked_unit_attention=(True,) * stages,
        window_sizes=tuple(sizes),
        global_blocks=tuple(sorted(draw.sample(blocks, draw.randint(0, len(blocks) - 1)))),
        layer_scale_init=draw.choice((None, 0.5)),
        pooled_shortcut=draw.random() < 0.3,
        num_labels=2,
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_windows_are_those_of_a_plain_encoder(seed: int) -> None:
    draw = random.Random(seed)
    config = drawn_config(draw)
    torch.manual_seed(seed)
    model = encoder(config).double()
    size = [draw.randint(1, 4 if config.axes < 3 else 2) * n for n in config.unit_pixels]
    if config.axes == 2:
        size = [n * draw.choice((1, 3)) for n in size]
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    folded: Any = fold(model)
    with torch.no_grad():
        expected = plain_maps(model, x)
        for same in (model, folded):
            for ours, plain in zip(every_map(every_stage(same, x)), expected, strict=True):
                torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)


def test_gradients_are_those_of_a_plain_encoder() -> None:
    model = encoder(sam_config()).double()
    x = torch.randn(1, 3, 256, 96, dtype=torch.float64, requires_grad=True)
    gradients = []
    for maps in (every_map(every_stage(model, x)), plain_maps(model, x)):
        model.zero_grad()
        x.grad = None
        torch.manual_seed(1)
        torch.stack([(m * torch.randn(m.shape, dtype=m.dtype)).sum() for m in maps]).sum().backward()
        assert x.grad is not None
        gradients.append([x.grad.clone(), *(p.grad.clone() for p in model.parameters())])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)


def test_recomputed_activations_give_the_same_gradients() -> None:
    model, x = encoder(sam_config()).train(), torch.randn(1, 3, 96, 128)
    gradients = []
    for recompute in (False, True):
        model.gradient_checkpointing = recompute
        model.zero_grad()
        model(x).last.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_windows_of_the_whole_grid_are_the_classic_model() -> None:
    """At 224 pixels 14 tokens of stage 3 and 7 of stage 4 are the whole grid."""
    config = image_config(image_size=(224, 224), position_embedding="abs_win", global_position_size=(7, 7))
    classic = encoder(config)
    windowed = Hiera(config.replace(window_sizes=(8, 4, 14, 7))).eval()
    windowed.load_state_dict(classic.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        pairs = zip(every_map(every_stage(windowed, x)), every_map(every_stage(classic, x)), strict=True)
        for ours, expected in pairs:
            assert relative(ours, expected) < 1e-6


# -- models --------------------------------------------------------------------------------------------------------


def model_of(task: Any, **changes: Any) -> Any:
    model = task(sam_config(num_labels=3, **changes))
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (100, 130)])
def test_every_task_but_pretraining_takes_windows(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert model_of(hierax.HieraForImageClassification)(x).logits.shape == (2, 3)
        maps = model_of(hierax.HieraBackbone, out_features=("stage1", "stage4"))(x).feature_maps
        assert [m.shape[2:] for m in maps] == [tuple(-(-n // s) for n in size) for s in (4, 32)]
        out = model_of(hierax.HieraModel)(x, output_hidden_states=True)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    rows, columns = out.reshaped_hidden_states[3].shape[1:3]
    assert (rows, columns) == tuple(-(-n // 16) for n in size)
    grid = out.hidden_states[3].unflatten(1, tuple(-(-n // 32) * 2 for n in size))  # states have the padding
    assert torch.equal(out.reshaped_hidden_states[3], grid[:, :rows, :columns])


def test_gradients_with_respect_to_hidden_states_exist() -> None:
    model, x = model_of(hierax.HieraForImageClassification), torch.randn(1, 3, 100, 64)
    out = model(x, output_hidden_states=True)
    for kind in ("hidden_states", "reshaped_hidden_states"):
        gradients = torch.autograd.grad(out.logits.sum(), list(out[kind]), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_the_mean_is_that_of_the_map() -> None:
    model, x = model_of(hierax.HieraModel), torch.randn(1, 3, 90, 260)
    with torch.no_grad():
        features = model.encoder(x)
    expected = features.map(4).flatten(2).mean(-1)
    torch.testing.assert_close(features.mean(), expected)


def test_masks_are_refused() -> None:
    model, x = model_of(hierax.HieraModel), torch.randn(1, 3, 64, 64)
    message = r"a mask hides mask units, but this model has windows of \(8, 4, 14, 7\) tokens"
    with pytest.raises(ValueError, match=message):
        model(x, keep=torch.tensor([[True, False, True, False]]))
    with pytest.raises(ValueError, match=message):
        model(x, mask_ratio=0.5)
    with pytest.raises(ValueError, match=message):
        hierax.HieraForPreTraining(sam_config(num_query_pool=2))


def test_attention_weights_need_whole_windows() -> None:
    model = model_of(hierax.HieraModel)
    whole = model(torch.randn(1, 3, 224, 224), output_attentions=True).attentions
    assert [tuple(w.shape[2:]) for w in whole] == [(49, 64, 64), (49, 16, 16), (1, 196, 196), (1, 49, 49)]
    with pytest.raises(
        ValueError, match="attention weights need whole windows; the grid of 16x16 tokens is no multiple"
    ):
        model(torch.randn(1, 3, 256, 256), output_attentions=True)


def test_weights_and_answers_of_attention_agree() -> None:
    model, x = model_of(hierax.HieraModel), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(x).last_hidden_state
        torch.testing.assert_close(model(x, output_attentions=True).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_models_with_windows_compile_as_one_graph_and_are_exported() -> None:
    model = model_of(hierax.HieraBackbone, depths=(1, 1, 2, 1), global_blocks=())
    x = torch.randn(2, 3, 256, 96)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(copy.deepcopy(model), (x,), dynamic_shapes=({0: batch}, *[None] * 0))
    with torch.no_grad():
        expected = model(x).feature_maps[0]
        compiled = torch.compile(model, backend="eager", fullgraph=True)(x).feature_maps[0]
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
        more = torch.cat([x, x])
        exported = program.module()(more).feature_maps[0]
    torch.testing.assert_close(exported, torch.cat([expected] * 2), rtol=1e-4, atol=1e-5)


def test_a_model_is_saved_and_opened(tmp_path: Any) -> None:
    model, x = model_of(hierax.HieraForImageClassification), torch.randn(1, 3, 100, 130)
    model.save_pretrained(tmp_path)
    assert '"model_type": "hierax"' in (tmp_path / "config.json").read_text()
    again = hierax.load(tmp_path).eval()
    assert again.config.replace(extra={}) == model.config
    with torch.no_grad():
        assert torch.equal(again(x).logits, model(x).logits)


# -- transformers --------------------------------------------------------------------------------------------------


def of_transformers() -> Any:
    from transformers import Sam2HieraDetModel

    return Sam2HieraDetModel(trunk_in_transformers()).eval()


RENAMED = {
    "patch_embed.projection": "patch_embed.proj",
    "layer_norm": "norm",
    "mlp.proj_in": "mlp.fc1",
    "mlp.proj_out": "mlp.fc2",
    "pos_embed_window": "pos_embed.window",
}


def our_name(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return "pos_embed.whole" if name == "pos_embed" else name


@pytest.mark.parametrize("size", SIZES[:5])
def test_maps_are_those_of_sam_2_in_transformers(size: tuple[int, int]) -> None:
    theirs = of_transformers()
    randomize(theirs)
    ours = Hiera(sam_config()).eval()
    ours.load_state_dict({our_name(name): tensor for name, tensor in theirs.state_dict().items()})
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = [features.movedim(-1, 1) for features in theirs(x).intermediate_hidden_states]
        for map_, expected in zip(every_map(every_stage(ours, x))[1:], maps, strict=True):
            assert relative(map_, expected) < 1e-5


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("size", [(64, 96), pytest.param((256, 256), marks=pytest.mark.slow)])
def test_engines_run_models_with_windows(backend: str, size: tuple[int, int]) -> None:
    model, x = (
        model_of(hierax.HieraBackbone, image_size=size, out_features=("stage2", "stage4")),
        torch.randn(2, 3, *size),
    )
    with torch.no_grad():
        expected = model(x).feature_maps
    with hierax.Engine(model, backend=backend, precision="fp32") as engine:
        for ours, wanted in zip(engine(x).feature_maps, expected, strict=True):
            assert relative(ours, wanted) < 1e-5


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_a_traced_model_is_the_model() -> None:
    model, x = model_of(hierax.HieraBackbone), torch.randn(2, 3, 256, 96)
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, x, strict=False)
        assert relative(traced(x)[0][0], model(x).feature_maps[0]) < 1e-5
