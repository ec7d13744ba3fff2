import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from hierax.model.outputs import BackboneOutput, ClassifierOutput, HieraModelOutput, PreTrainingOutput

LOSS, LOGITS, STATE = torch.tensor(1.0), torch.zeros(2, 5), torch.ones(2, 3)


@pytest.fixture
def out() -> ClassifierOutput:
    return ClassifierOutput(loss=None, logits=LOGITS, hidden_states=(STATE,))


def test_fields_are_read_by_name_position_and_slice(out: ClassifierOutput) -> None:
    assert out.logits is LOGITS
    assert out["logits"] is LOGITS
    assert out[0] is LOGITS
    assert out[1] == (STATE,)
    assert out[-1] == (STATE,)
    assert out[:2] == (LOGITS, (STATE,))
    assert out[:1] == (LOGITS,)


def test_none_is_skipped_by_position_and_by_key(out: ClassifierOutput) -> None:
    assert out.loss is None
    assert out.keys() == ("logits", "hidden_states")
    assert len(out) == 2
    with pytest.raises(IndexError):
        out[2]
    with pytest.raises(KeyError, match="'loss' is not in this output; it has logits, hidden_states"):
        out["loss"]


def test_positions_move_when_a_loss_is_there() -> None:
    out = ClassifierOutput(loss=LOSS, logits=LOGITS)
    assert out[0] is LOSS
    assert out[:2] == (LOSS, LOGITS)
    assert out.to_tuple() == (LOSS, LOGITS)


def test_iterating_yields_keys(out: ClassifierOutput) -> None:
    assert list(out) == ["logits", "hidden_states"]
    assert dict(out) == {"logits": LOGITS, "hidden_states": (STATE,)}  # type: ignore[call-overload]
    assert dict(out.items()) == dict(zip(out.keys(), out.values(), strict=True))


def test_in_asks_for_keys(out: ClassifierOutput) -> None:
    assert "logits" in out
    assert "loss" not in out
    assert "nonsense" not in out


def test_an_output_can_be_spread_as_keyword_arguments(out: ClassifierOutput) -> None:
    def take(**fields: Any) -> set[str]:
        return set(fields)

    assert take(**out) == {"logits", "hidden_states"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            HieraModelOutput,
            "last_hidden_state pooler_output bool_masked_pos ids_restore hidden_states attentions "
            "reshaped_hidden_states",
        ),
        (BackboneOutput, "feature_maps hidden_states attentions"),
        (ClassifierOutput, "loss logits hidden_states attentions reshaped_hidden_states"),
        (
            PreTrainingOutput,
            "loss logits bool_masked_pos ids_restore hidden_states attentions reshaped_hidden_states",
        ),
    ],
)
def test_fields_stand_in_the_order_of_transformers(kind: type, names: str) -> None:
    fields = names.split()
    out = kind(**{name: torch.tensor(float(i)) for i, name in enumerate(fields)})
    assert list(out) == fields
    assert [float(value) for value in out.to_tuple()] == list(range(len(fields)))


def test_outputs_can_be_copied_and_pickled(out: ClassifierOutput) -> None:
    for twin in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert isinstance(twin, ClassifierOutput)
        assert twin.keys() == out.keys()
        assert torch.equal(twin.logits, out.logits)


def test_pytorch_can_take_an_output_apart_and_put_it_together(out: ClassifierOutput) -> None:
    leaves, spec = pytree.tree_flatten(out)
    assert [leaf for leaf in leaves if leaf is not None] == [LOGITS, STATE]
    again = pytree.tree_unflatten([None if leaf is None else leaf + 1 for leaf in leaves], spec)
    assert isinstance(again, ClassifierOutput)
    assert torch.equal(again.logits, LOGITS + 1)


def test_the_output_of_a_backbone_is_a_dictionary() -> None:
    maps = (torch.zeros(1, 2, 3, 3), torch.ones(1, 4, 2, 2))
    out = BackboneOutput(feature_maps=maps)
    assert isinstance(out, dict)
    assert (list(out), len(out), bool(out), dict(out)) == (["feature_maps"], 1, True, {"feature_maps": maps})
    assert {**out} == {"feature_maps": maps}
    pairs: Any = ((name, value) for name, value in out.items())
    again = type(out)(pairs)  # as PyTorch's gather makes one
    assert again.feature_maps is maps
    for copied in (pickle.loads(pickle.dumps(out)), copy.deepcopy(out), copy.copy(out)):
        assert torch.equal(copied.feature_maps[1], maps[1])
        assert list(copied) == ["feature_maps"]
