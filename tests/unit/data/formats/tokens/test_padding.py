import pytest
import torch

from tests.support.training import TINY
from tuwen.data.formats.tokens.padding import group_by_length, make_attention_mask
from tuwen.model.dual_encoder import DualEncoder


@pytest.mark.parametrize(("most", "sizes"), [(None, [3] * 8), (2, [2] * 12), (5, [3] * 8)])
def test_a_group_ends_with_its_longest_text_and_the_order_leads_back(most: int | None, sizes: list[int]) -> None:
    lengths = torch.randint(2, 30, (24,), generator=torch.Generator().manual_seed(0))
    groups, back = group_by_length(lengths, most)
    assert [len(rows) for rows, _ in groups] == sizes
    longest = [int(lengths[rows].max()) for rows, _ in groups]
    assert [length for _, length in groups] == longest == sorted(longest)
    assert torch.equal(torch.cat([rows for rows, _ in groups])[back], torch.arange(24))


def make_texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of four texts of 12, 5, 3 and 8 tokens."""
    mask = (torch.arange(12) < torch.tensor([12, 5, 3, 8])[:, None]).long()
    return torch.randint(5, 24, (4, 12), generator=torch.Generator().manual_seed(0)) * mask, mask


def test_a_mask_that_hides_nothing_is_none() -> None:
    ids, mask = make_texts()
    ready = make_attention_mask(mask, ids.device)
    assert ready is not None
    assert torch.equal(ready[:, 0, 0], mask.bool())
    assert make_attention_mask(mask[:1], ids.device) is None


def test_a_bert_that_is_given_a_ready_mask_looks_into_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    tower, (ids, mask) = DualEncoder(TINY).text_tower, make_texts()
    ready = make_attention_mask(mask, ids.device)

    def look(tensor: torch.Tensor) -> bool:
        raise AssertionError("on a GPU this waits for all that is queued")

    monkeypatch.setattr(torch.Tensor, "__bool__", look)
    tower(ids, ready)
    tower(ids, None)
    with pytest.raises(AssertionError, match="waits"):
        make_attention_mask(mask, ids.device)


def test_a_text_has_the_same_vector_with_and_without_its_padding() -> None:
    torch.manual_seed(0)
    model, (ids, mask) = DualEncoder(TINY).eval(), make_texts()
    with torch.no_grad():
        padded = model.encode_text(ids, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            trimmed = model.encode_text(ids[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(trimmed[0], padded[row], atol=1e-6, rtol=0)
