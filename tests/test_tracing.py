"""Whole graphs: `torch.compile(fullgraph=True)` and `torch.export` with a dynamic batch, and what they give."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hierax.model.encoder import Hiera
from hierax.model.tasks import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from small import CONFIGS, pixels, randomize, relative, units_of

EVERY = ("stem", "stage1", "stage2", "stage3", "stage4")
BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]
KINDS = ["image", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("video", "abs_win", "line", "volume"))]

# inductor imports a part of PyTorch that PyTorch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def make(task: str, kind: str = "image", **changes: Any) -> Any:
    """A model in double precision, so that another order of sums cannot be mistaken for an error, nor hide one."""
    pools: dict[str, Any] = {"num_query_pool": 2, "mask_ratio": 0.5} if task == "mae" else {}
    config = CONFIGS[kind](**{**pools, "depths": (1, 1, 1, 1), "decoder_depth": 1, **changes})
    build: dict[str, Any] = {
        "encoder": Hiera,
        "features": HieraModel,
        "classification": HieraForImageClassification,
        "backbone": lambda c: HieraBackbone(c, out_features=EVERY, norms=True),
        "mae": HieraForPreTraining,
    }
    model = build[task](config)
    randomize(model, 0.2)
    return model.double().eval()


def random_pixels(model: Any, batch: int = 2, size: Any = None) -> Tensor:
    return pixels(model.config, batch, size, dtype=torch.float64)


def leaves(out: Any) -> list[Tensor]:
    """All tensors of an output; of the encoder's, those by stage."""
    tensors = list(out.tokens.values()) if hasattr(out, "tokens") else pytree.tree_leaves(out)
    return [t for t in tensors if isinstance(t, Tensor)]


def assert_same(made: Any, expected: Any) -> None:
    assert len(leaves(made)) == len(leaves(expected)) > 0
    for a, b in zip(leaves(made), leaves(expected), strict=True):
        assert relative(a, b) < 1e-10 if b.is_floating_point() else torch.equal(a, b)


# -- compile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["encoder", "classification", pytest.param("backbone", marks=pytest.mark.slow)])
def test_a_model_compiles_to_one_graph(task: str, backend: str) -> None:
    model = make(task)
    x = random_pixels(model)
    options = {"stages": (0, 1, 2, 3, 4)} if task == "encoder" else {"output_hidden_states": True}
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert_same(compiled(x, **options), model(x, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_gives_the_same_gradients(kind: str) -> None:
    model = make("features", kind).train()
    x, grads = random_pixels(model), []
    for function in (model, torch.compile(model, fullgraph=True, backend="eager")):
        model.zero_grad()
        function(x).pooler_output.square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("given", ["noise", "keep"])
@pytest.mark.parametrize(("kind", "backend"), [("image", "eager"), *(
    pytest.param(kind, backend, marks=pytest.mark.slow)
    for kind, backend in [("image", "inductor"), ("video", "eager"), ("abs_win", "eager"), ("line", "eager"),
                          ("volume", "eager")]
)])  # fmt: skip
def test_a_mae_compiles_to_one_graph(kind: str, given: str, backend: str) -> None:
    model = make("mae", kind).train()
    x, noise = random_pixels(model), torch.rand(2, units_of(model.config))
    mask = {given: noise if given == "noise" else model(x, noise).ids_restore < noise.shape[1] // 2}
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    out = compiled(x, **mask)
    assert_same(out, model(x, **mask))
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mae_that_draws_its_own_masks_compiles_to_one_graph(backend: str) -> None:
    model = make("mae").train()
    x = random_pixels(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.manual_seed(0)
    masks = []
    for _ in range(8):
        out = compiled(x)
        masks.append(tuple(out.bool_masked_pos.flatten().tolist()))
        assert_same([out.loss, out.logits], [getattr(model(x, out.ids_restore), n) for n in ("loss", "logits")])
    assert len(set(masks)) > 1


def test_a_compiled_mae_refuses_a_mask_of_another_count() -> None:
    model = make("mae")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = random_pixels(model)
    with torch.no_grad():
        compiled(x, keep=torch.tensor([[True, False, False, True]] * 2))
        with pytest.raises(RuntimeError, match="keep must show 2 mask units in every image"):
            compiled(x, keep=torch.tensor([[True, False, True, True]] * 2))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "size"), [("classification", (70, 100)), ("features", (96, 64)), ("mae", (96, 64))])
def test_other_sizes_compile_to_one_graph_too(task: str, size: tuple[int, int]) -> None:
    model = make(task)
    x = random_pixels(model, size=size)
    mask = {"noise": torch.rand(2, 6)} if task == "mae" else {}
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True, backend="eager")(x, **mask), model(x, **mask))


@pytest.mark.parametrize("task", ["classification", pytest.param("mae", marks=pytest.mark.slow)])
def test_drop_path_dropout_and_recomputation_compile_to_one_graph(task: str) -> None:
    model = make(task, drop_path_rate=0.3, dropout=0.3).train()
    model.gradient_checkpointing_enable()
    out = torch.compile(model, fullgraph=True, backend="eager")(random_pixels(model))
    (out.loss if task == "mae" else out.logits.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_a_loss_of_labels_compiles_to_one_graph() -> None:
    model = make("classification")
    x, labels = random_pixels(model), torch.tensor([1, 3])
    assert_same(torch.compile(model, fullgraph=True, backend="eager")(x, labels), model(x, labels))


@pytest.mark.slow
def test_attentions_compile_to_one_graph() -> None:
    model = make("features")
    x = random_pixels(model)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert_same(compiled(x, output_attentions=True), model(x, output_attentions=True))


def test_a_compiled_model_follows_its_weights() -> None:
    """Nothing of the position embedding may be frozen into the graph."""
    model = make("features")
    x = random_pixels(model, size=(96, 96))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        before = compiled(x).last_hidden_state.clone()
        model.encoder.pos_embed.weight.add_(torch.randn_like(model.encoder.pos_embed.weight))
        assert_same(compiled(x), model(x))
        assert relative(compiled(x).last_hidden_state, before) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_a_traced_model_follows_its_weights() -> None:
    """`torch.jit.trace`, with the embedding of this size in the cache before and after."""
    model = make("backbone")
    x = random_pixels(model, size=(96, 96))
    model(x)
    traced: Any = torch.jit.trace(Maps(model), (x,))
    assert relative(traced(x), model(x).feature_maps[-1]) < 1e-10
    model.encoder.pos_embed.weight.add_(torch.randn_like(model.encoder.pos_embed.weight))
    assert relative(traced(x), model(x).feature_maps[-1]) < 1e-10


class Maps(nn.Module):
    """A backbone that gives its last map alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).feature_maps[-1]


# -- export -----------------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """A model with one way of giving the mask, since exported programs take positional arguments."""

    def __init__(self, model: nn.Module, mask: str) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.model(x, **{self.mask: mask})


def exported(model: nn.Module, *example: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model, example, dynamic_shapes=tuple({0: batch} for _ in example)).module()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["classification", "backbone"])
def test_models_are_exported_with_a_dynamic_batch(task: str, kind: str) -> None:
    model = make(task, kind)
    with torch.no_grad():
        program = exported(model, random_pixels(model, 3))
        for batch in (1, 2, 5):
            x = random_pixels(model, batch)
            assert_same(program(x), model(x))


@pytest.mark.parametrize("mask", ["noise", "keep"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mae_is_exported_with_a_dynamic_batch(kind: str, mask: str) -> None:
    model = make("mae", kind)
    given = Given(model, mask)
    units = units_of(model.config)

    def random_mask(batch: int) -> Tensor:
        noise = torch.rand(batch, units)
        return noise if mask == "noise" else noise.argsort(1).argsort(1) < units // 2

    with torch.no_grad():
        program = exported(given, random_pixels(model, 3), random_mask(3))
        for batch in (1, 2, 5):
            example = random_pixels(model, batch), random_mask(batch)
            assert_same(program(*example), given(*example))


@pytest.mark.parametrize("size", [(70, 100), pytest.param((96, 64), marks=pytest.mark.slow)])
def test_a_model_is_exported_at_another_size(size: tuple[int, int]) -> None:
    model = make("backbone")
    with torch.no_grad():
        program = exported(model, random_pixels(model, 3, size))
        x = random_pixels(model, 2, size)
        assert_same(program(x), model(x))


@pytest.mark.parametrize("task", [pytest.param("classification", marks=pytest.mark.slow), "mae"])
def test_models_are_exported_in_training_mode_and_with_gradients_on(task: str) -> None:
    model = make(task).train()
    example = [random_pixels(model, 3), *([torch.rand(3, 4)] if task == "mae" else [])]
    program = exported(Given(model, "noise") if task == "mae" else model, *example)
    out = program(*example)
    assert_same(out, model(*example))
    out[0].sum().backward()
    own = dict(program.named_parameters())
    assert len(own) == len(list(model.parameters()))
    assert all(p.grad is not None for p in own.values())


def test_an_exported_program_can_be_saved_and_read(tmp_path: Any) -> None:
    model = make("classification")
    x = random_pixels(model, 3)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), tmp_path / "model.pt2")
        assert_same(torch.export.load(tmp_path / "model.pt2").module()(x[:2]), model(x[:2]))


def test_export_leaves_no_trace_in_the_model() -> None:
    """What tracing computed must not stay in the cache of position embeddings."""
    model = make("features")
    x = random_pixels(model, 3, size=(96, 96))
    with torch.no_grad():
        exported(model, x)
        assert not model.encoder.pos_embed.cached
        assert_same(model(x), model(x))
