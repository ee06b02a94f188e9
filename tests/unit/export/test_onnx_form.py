"""Programs of ONNX: in ONNX Runtime they give torch's vectors, fed by what their folder says alone."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from tests.support.library_models import CAPTIONS, TOKENS, load_ours
from tests.support.small_model import CONFIG, write_small_model
from tests.support.weights import draw_pictures
from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.text import tokenize
from tuwen.export.onnx_form import write_onnx_folder
from tuwen.model import dual_encoder
from tuwen.retrieval.retriever import load_retriever, read_square

VIT, TEXT = CONFIG["image"], CONFIG["text"]
OWN_PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.4, 0.3]}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit, texts by [CLS]": (VIT | {"activation": "gelu"}, TEXT | {"pool": "first"}),
    "mean_vit": ({"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5}, TEXT),
    "efficientnet_lite0": ({"kind": "efficientnet_lite0", "size_px": 32} | OWN_PIXELS, TEXT | {"positions": 40}),
    "resnet of open_clip": (
        {"kind": "resnet", "size_px": 32, "width": 8, "layers": [1, 1, 1, 1], "heads": 4},
        TEXT,
    ),
}


def run(folder: Path, side: str, **inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / f"{side}.onnx", providers=["CPUExecutionProvider"])
    (vectors,) = session.run(["vectors"], {name: tensor.numpy() for name, tensor in inputs.items()})
    return vectors


@pytest.mark.parametrize("family", FAMILIES)
def test_each_kind_of_tower_gives_torchs_vectors_at_every_batch_and_length(family: str, tmp_path: Path) -> None:
    image, text = FAMILIES[family]
    torch.manual_seed(0)
    encoder = dual_encoder.DualEncoder(CONFIG | {"vocabulary": 40, "image": image, "text": text}).eval()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"[{number}]" for number in range(5, 40))]
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    write_onnx_folder(tmp_path / "ours", tmp_path / "out")
    for batch, length in ((1, 1), (1, 12), (5, 7), (5, 12)):
        pixels = torch.randn(batch, 3, image["size_px"], image["size_px"])
        ids = torch.randint(0, 40, (batch, length))
        mask = (torch.arange(length) <= torch.randint(0, length, (batch, 1))).long()
        with torch.no_grad():
            images, texts = encoder.encode_image(pixels).numpy(), encoder.encode_text(ids, mask).numpy()
        assert np.abs(run(tmp_path / "out", "image", pixels=pixels) - images).max() < 1e-4
        assert np.abs(run(tmp_path / "out", "text", ids=ids, mask=mask) - texts).max() < 1e-4


def test_the_folder_alone_says_how_pictures_and_captions_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of its own mean and deviation, its files without a right to write, as in an out of DVC."""
    model = write_small_model(tmp_path / "model")
    loaded = dual_encoder.load_model(model)
    loaded.config["image"] |= OWN_PIXELS
    dual_encoder.save_model(loaded, model, dual_encoder.read_vocabulary(model))
    for file in model.iterdir():
        file.chmod(0o444)
    done = CliRunner().invoke(cli.app, ["export", "model", "onnx", str(model), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "image.onnx", "preprocessor.json", "text.onnx", "tokenizer.json", "vocab.txt")
    ]
    retriever, pictures = load_retriever(model), draw_pictures()
    rule = read_json(tmp_path / "out/preprocessor.json")["image"]
    squares = np.stack([read_square(("", one), retriever.model.picture_rule) for one in pictures]) / 255
    pixels = ((squares - rule["mean"]) / rule["std"]).transpose(0, 3, 1, 2).astype(np.float32)
    images = run(tmp_path / "out", "image", pixels=torch.from_numpy(pixels))
    assert np.abs(images - retriever.encode_images(pictures)).max() < 1e-4

    monkeypatch.chdir(tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    captions = re.findall('"([一-龥]+)"', code)
    assert len(captions) == 2
    assert np.abs(names["vectors"] - retriever.encode_texts(captions)).max() < 1e-4


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_librarys_model_is_written_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, vocabulary = load_ours(kind, tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    write_onnx_folder(tmp_path / "ours", tmp_path / "out")
    retriever = load_retriever(tmp_path / "ours")
    ids, mask = tokenize(retriever.tokenizer, CAPTIONS, TOKENS)
    texts = run(tmp_path / "out", "text", ids=ids, mask=mask)
    assert np.abs(texts - retriever.encode_texts(CAPTIONS)).max() < 1e-4
    readme = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert (f"All are padded to {TOKENS} tokens, and `mask` is 1 everywhere" in readme) == (kind == "siglip")
    monkeypatch.chdir(tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert {one.name for one in names["session"].get_inputs()} == {"ids", "mask"}


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_where_a_package_is_missing_the_extra_is_named_and_nothing_is_written(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    with pytest.raises(UserError, match=rf"not installed: {package}; .*-e '\.\[onnx\]'.*form torch"):
        write_onnx_folder(write_small_model(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_form_for_torch_alone_has_none_here(tmp_path: Path) -> None:
    encoder, vocabulary = load_ours("siglip2", tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    with pytest.raises(UserError, match=r"positions are interpolated for each picture.*export model hugging_face"):
        write_onnx_folder(tmp_path / "ours", tmp_path / "out")
