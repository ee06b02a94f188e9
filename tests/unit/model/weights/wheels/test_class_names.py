"""Projections that begin as a classifier: a picture of a class is near its name, before any training."""

from pathlib import Path

import pytest
import torch

from tests.support.wheels import image_state, make_bert, put_class_names, put_wheels, write_e5
from tuwen.core.errors import UserError
from tuwen.core.params.root import check_params
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats.text import make_tokenizer, tokenize
from tuwen.model.weights import load
from tuwen.model.weights.wheels.class_names import make_projections

# as many as image_state has classes
NAMES = ["panda", "大熊猫", "熊猫", "竹", "竹子", "猫", "子", "大", "大猫", "大竹"]


def test_what_points_at_a_class_is_nearest_to_its_text() -> None:
    torch.manual_seed(0)
    texts, classifier = torch.randn(40, 24), torch.linalg.qr(torch.randn(64, 40))[0].T
    image_DF, text_DW = make_projections(classifier, texts + 3, 20)
    assert image_DF.shape == (20, 64)
    assert text_DW.shape == (20, 24)
    assert image_DF.norm() == pytest.approx(20**0.5, rel=1e-5)
    found = classifier @ image_DF.T @ text_DW @ (texts - texts.mean(0)).T
    assert (found.argmax(1) == torch.arange(40)).float().mean() > 0.9
    with pytest.raises(UserError, match="dim: at most 24 with classes"):
        make_projections(classifier, texts, 25)


def make_start(folder: Path, monkeypatch: pytest.MonkeyPatch, names: list[str] | None) -> tuple:
    values = get_values(compose_preset("sample"))
    start = {"kind": "wheels", "dim": 8, **put_wheels(folder, monkeypatch, write_e5(make_bert())[0])}
    values["baseline"]["start"] = start | ({"classes": put_class_names(folder, names)} if names else {})
    values["image"]["size_px"], values["text"]["max_tokens"] = 32, 12
    return load.make_start(check_params(values, "params.yaml"), lambda: ["大熊猫，竹子", "熊猫"])


def test_a_start_keeps_the_words_of_the_names_and_draws_all_else_as_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, words = make_start(tmp_path, monkeypatch, None)
    encoder, vocabulary = make_start(tmp_path, monkeypatch, NAMES)
    assert encoder.training == drawn.training
    kept = {line.partition("\t")[0] for line in vocabulary} - {line.partition("\t")[0] for line in words}
    assert kept == {"panda"}
    same = drawn.state_dict()
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(same[name], tensor)}
    projections = {"image_tower.projection.weight", "text_projection.weight"}
    assert changed == projections | {"text_tower.embeddings.word_embeddings.weight"}
    with torch.no_grad():
        ids, mask = tokenize(make_tokenizer(vocabulary), NAMES, 12)
        texts = encoder.eval().pool_text(ids, mask)
    due = make_projections(image_state()["_fc.weight"], texts, 8)
    torch.testing.assert_close(encoder.image_tower.projection.weight, due[0])
    torch.testing.assert_close(encoder.text_projection.weight, due[1])


def test_names_of_another_number_of_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"start\.classes: 10 names expected, .*, got 9"):
        make_start(tmp_path, monkeypatch, NAMES[1:])
