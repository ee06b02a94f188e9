"""R2D2's cross-encoders, mapped in and out, against its equations written anew.

The names of the tensors come from github.com/yuxie11/R2D2 at c7127fa: those of the modules in models/r2d2.py and
models/bert.py. What reads what stands in `cross_output` of models/r2d2_retrieval.py.
"""

import math

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.model import architectures
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import make_cross_encoder
from tuwen.model.weights import r2d2

LAYERS, WIDTH, MLP, IMAGE_WIDTH, HEADS = 3, 128, 192, 64, 2


def draw_published() -> dict[str, torch.Tensor]:
    """Draw a checkpoint of R2D2 in small, by the names of its modules; of the towers a few tensors only."""
    draw, state = torch.Generator().manual_seed(5), {}

    def add(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = torch.randn(rows, columns, generator=draw) / math.sqrt(columns)
        state[f"{name}.bias"] = torch.randn(rows, generator=draw) / 3

    def add_norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + torch.randn(WIDTH, generator=draw) / 3
        state[f"{name}.bias"] = torch.randn(WIDTH, generator=draw) / 3

    for stream, other in (("text_joint_layer", IMAGE_WIDTH), ("img_joint_layer", WIDTH)):
        state[f"{stream}.embeddings.word_embeddings.weight"] = torch.randn(21, WIDTH, generator=draw)
        state[f"{stream}.embeddings.position_ids"] = torch.arange(8)[None]
        for number in range(LAYERS):
            layer = f"{stream}.encoder.layer.{number}"
            for attention, keys in (("attention", WIDTH), ("crossattention", other)):
                add(f"{layer}.{attention}.self.query", WIDTH, WIDTH)
                add(f"{layer}.{attention}.self.key", WIDTH, keys)
                add(f"{layer}.{attention}.self.value", WIDTH, keys)
                add(f"{layer}.{attention}.output.dense", WIDTH, WIDTH)
                add_norm(f"{layer}.{attention}.output.LayerNorm")
            add(f"{layer}.intermediate.dense", MLP, WIDTH)
            add(f"{layer}.output.dense", WIDTH, MLP)
            add_norm(f"{layer}.output.LayerNorm")
    add("img_joint_proj", WIDTH, IMAGE_WIDTH)
    add("itm_head", 2, WIDTH)
    add("itm_head_i", 2, WIDTH)
    add("vision_proj", 16, IMAGE_WIDTH)
    add("text_proj", 16, WIDTH)
    state["visual_encoder.pre_layrnorm.weight"] = torch.ones(IMAGE_WIDTH)
    state["temp"] = torch.tensor(0.07)
    return state


def answer_plainly(state: dict[str, torch.Tensor], image: torch.Tensor, text: torch.Tensor, length: int):
    """One pair, image [P, C] and the first `length` of text [L, W]: the states of both streams, and the score."""

    def linear(name: str, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x):
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(name: str, x, other, seen: int):
        query, key, value = (
            linear(f"{name}.self.{part}", of) for part, of in (("query", x), ("key", other), ("value", other))
        )
        heads, size = [], WIDTH // HEADS
        for head in range(HEADS):
            columns = slice(head * size, (head + 1) * size)
            score = query[:, columns] @ key[:seen, columns].T / math.sqrt(size)
            weight = score.exp() / score.exp().sum(-1, keepdim=True)
            heads.append(weight @ value[:seen, columns])
        return norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", torch.cat(heads, dim=-1)))

    def run(stream: str, x, seen: int, other, other_seen: int):
        for number in range(LAYERS):
            layer = f"{stream}.encoder.layer.{number}"
            x = attend(f"{layer}.attention", x, x, seen)
            x = attend(f"{layer}.crossattention", x, other, other_seen)
            inner = linear(f"{layer}.intermediate.dense", x)
            inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
            x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
        return x

    of_text = run("text_joint_layer", text, length, image, len(image))
    of_image = run("img_joint_layer", linear("img_joint_proj", image), len(image), text, length)
    logits = linear("itm_head", of_text[0]), linear("itm_head_i", of_image[0])
    return of_text, of_image, sum(logit.exp()[1] / logit.exp().sum() for logit in logits) / 2


@pytest.fixture(scope="module")
def dual() -> DualEncoder:
    torch.manual_seed(0)
    image = architectures.make_vit_config(32, 8, IMAGE_WIDTH, 1)
    text = architectures.make_bert_config(WIDTH, 1, 12, 16)
    return DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": 20}).eval()


def test_the_published_layout_gives_what_its_equations_give(dual, tmp_path) -> None:
    state, path = draw_published(), tmp_path / "r2d2.pth"
    torch.save({"model": state, "epoch": 3}, path)
    cross = r2d2.read_cross_encoder(path, dual)
    torch.manual_seed(1)
    image, text, lengths = torch.randn(3, 17, IMAGE_WIDTH), torch.randn(3, 7, WIDTH), [7, 4, 1]
    mask = torch.tensor([[int(position < length) for position in range(7)] for length in lengths])
    with torch.no_grad():
        output = cross(image, text, mask)
        score = cross.score_pairs(image, text, mask)
    exact = {name: tensor.double() for name, tensor in state.items()}
    for pair, length in enumerate(lengths):
        of_text, of_image, expected = answer_plainly(exact, image[pair].double(), text[pair].double(), length)
        torch.testing.assert_close(output.text[pair, :length].double(), of_text[:length], atol=2e-4, rtol=0)
        torch.testing.assert_close(output.image[pair].double(), of_image, atol=2e-4, rtol=0)
        assert score[pair].item() == pytest.approx(expected.item(), abs=1e-5)
        assert cross.score_matches(output)[pair].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_way_out_undoes_the_way_in_bit_for_bit(dual, tmp_path) -> None:
    state, path = draw_published(), tmp_path / "r2d2.pth"
    torch.save({"model": state}, path)
    r2d2.write_cross_encoder(r2d2.read_cross_encoder(path, dual), tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    crossed = {n for n in state if "encoder.layer" in n or n.startswith(("img_joint_proj", "itm_head"))}
    assert written.keys() == crossed
    assert [name for name, tensor in written.items() if not torch.equal(tensor, state[name])] == []


def test_what_is_no_r2d2_or_belongs_to_other_towers_is_refused(dual, tmp_path) -> None:
    path = tmp_path / "r2d2.pth"
    torch.save({"visual.proj": torch.ones(2, 2)}, path)
    with pytest.raises(UserError, match=r"expected the tensors of R2D2's cross-encoders .*, got visual\.proj"):
        r2d2.read_cross_encoder(path, dual)
    state = draw_published()
    torch.save({name: tensor for name, tensor in state.items() if name != "itm_head_i.bias"}, path)
    with pytest.raises(UserError, match=r"nothing was loaded: 1 missing \(itm_head_i\.bias\)"):
        r2d2.read_cross_encoder(path, dual)
    torch.save(state, path)
    narrow = DualEncoder(dual.config | {"text": dual.config["text"] | {"width": 64, "heads": 1}})
    with pytest.raises(UserError, match="reads texts of width 128, got a dual encoder whose texts have 64"):
        r2d2.read_cross_encoder(path, narrow)
    wide = DualEncoder(dual.config | {"image": architectures.make_vit_config(32, 8, 128, 1)})
    with pytest.raises(UserError, match=r"of another shape \(text_blocks\.0\.other\.key_value\.weight: expected"):
        r2d2.read_cross_encoder(path, wide)


@pytest.mark.parametrize(
    "other", [{"fusion": "co_attention"}, {"heads": 4}, {"image_tokens": {"count": 4, "width": 64}}]
)
def test_a_form_that_r2d2_does_not_have_is_not_written(dual, tmp_path, other) -> None:
    settings = {"fusion": "both", "layers": 1, "width": WIDTH, "heads": HEADS, "mlp": MLP, "dropout": 0.1}
    cross = make_cross_encoder(dual, settings | {"image_tokens": None} | other)
    with pytest.raises(UserError, match="R2D2's form has a place for the fusion both"):
        r2d2.write_cross_encoder(cross, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
