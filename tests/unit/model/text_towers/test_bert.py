"""Our BERT against transformers' own: the same weights by a seed, the same bits of states, the same gradients."""

from typing import Any

import pytest
import torch

from tests.support.weights import stir
from tuwen.core.errors import UserError
from tuwen.model.text_towers.bert import Bert, BertShape

CONFIG = {"width": 128, "layers": 3, "dropout": 0.1, "max_tokens": 24, "heads": 4, "mlp": 192, "positions": 60}
VOCABULARY, SEED = 50, 3


def make_ours(**changed: Any) -> Bert:
    torch.manual_seed(SEED)
    return Bert(BertShape.of(CONFIG | changed, VOCABULARY))


def make_theirs(**changed: Any) -> Any:
    from transformers import BertConfig, BertModel

    config = CONFIG | changed
    torch.manual_seed(SEED)
    shape = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=config["width"],
        num_hidden_layers=config["layers"],
        num_attention_heads=config["heads"],
        intermediate_size=config["mlp"],
        max_position_embeddings=config["positions"],
        hidden_dropout_prob=config["dropout"],
        attention_probs_dropout_prob=config["dropout"],
        layer_norm_eps=config.get("eps", 1e-12),
        hidden_act=config.get("activation", "gelu"),
    )
    return BertModel(shape, add_pooling_layer=False)


def make_texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of four texts of 12, 5, 3 and 8 tokens."""
    mask = (torch.arange(12) < torch.tensor([12, 5, 3, 8])[:, None]).long()
    return torch.randint(5, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0)) * mask, mask


def test_a_seed_gives_the_weights_of_transformers_under_its_names() -> None:
    states, drawn_next = [], []
    for make in (make_ours, make_theirs):
        states.append(make().state_dict())
        drawn_next.append(torch.rand(1))
    assert list(states[0]) == list(states[1])
    for name, tensor in states[1].items():
        assert torch.equal(states[0][name], tensor), name
    assert torch.equal(*drawn_next)  # and so is what is drawn after it, as projections are


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("training", [False, True])
def test_the_states_and_gradients_are_those_of_transformers(training: bool, activation: str) -> None:
    ours, theirs = (stir(make(activation=activation)).train(training) for make in (make_ours, make_theirs))
    ids, mask = make_texts()
    for rows, ready in ((slice(4), mask.bool()[:, None, None]), (slice(1), None)):
        torch.manual_seed(1)
        own = ours(ids[rows], ready)
        torch.manual_seed(1)
        wanted = theirs(input_ids=ids[rows], attention_mask=mask[rows]).last_hidden_state
        torch.testing.assert_close(own, wanted, atol=1e-5 if activation == "gelu_new" else 0, rtol=0)
        for model, states in ((ours, own), (theirs, wanted)):
            model.zero_grad()
            states.square().mean().backward()
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_vectors_stand_in_for_ids() -> None:
    bert, (ids, mask) = make_ours().eval(), make_texts()
    ready = mask.bool()[:, None, None]
    assert torch.equal(bert(ids, ready), bert(None, ready, bert.get_input_embeddings()(ids)))


def test_an_unknown_activation_and_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"text\.activation: expected one of gelu, .*, got 'mish'"):
        BertShape.of(CONFIG | {"activation": "mish"}, VOCABULARY)
    with pytest.raises(ValueError, match="128 is no multiple of 5 heads"):
        BertShape.of(CONFIG | {"heads": 5}, VOCABULARY)
