"""Sets and models in other forms by the command line, in real processes."""

import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from tests.repo.files import text_of
from tests.support.checkout import ROOT
from tests.support.commands import call
from tests.support.training import PIXELS, TINY
from tests.support.weights import SIZE_PX, TOKENS, VOCABULARY, cn_clip_model, sha256
from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.core.params import CnClip, HuggingFace, load_params
from tuwen.data.formats import pairs
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.formats.text import SPECIAL_TOKENS
from tuwen.model import dual_encoder
from tuwen.model.weights import load
from tuwen.model.weights.export import export_model


def test_sets_are_exported_and_their_shards_listed(tmp_path: Path) -> None:
    row = {"image_id": "熊猫.jpg", "positive_id": "熊猫.jpg"}
    with ShardWriter(tmp_path / "data", "clean/train/shards") as writer:
        row |= writer.add("熊猫.jpg", b"\xff\xd8")._asdict()
    texts = [{"text_id": "t1", "caption": "一只大熊猫坐在竹林里吃竹子"}]
    linked = [{"pair_id": "p1", "image_id": "熊猫.jpg", "text_id": "t1"}]
    tables = zip(([row], texts, linked), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    found = pairs.PairSet(*(pa.Table.from_pylist(rows, schema) for rows, schema in tables))
    for name in ("train", "valid"):
        pairs.write_pair_set(tmp_path / "data/clean" / name, found)
    sets = ("data/clean/train", "data/clean/valid")
    call("tuwen", "export", "chinese_clip", *sets, "muge", cwd=tmp_path)
    names = [f"{split}_{kind}" for split in ("train", "valid") for kind in ("imgs.tsv", "texts.jsonl")]
    assert sorted(path.name for path in (tmp_path / "muge").iterdir()) == ["ids.csv", *names]
    assert "1 pairs written" in call("tuwen", "export", "webdataset", *sets, "tars", cwd=tmp_path).stderr
    listed = call("tuwen", "shards", "tars/train", "tars/valid/000000.tar", cwd=tmp_path).stdout
    assert listed == (tmp_path / "tars/shards.csv").read_text()
    again = call("tuwen", "export", "webdataset", *sets, "tars", cwd=tmp_path, fails=True)
    assert again.stderr == "error: tars: exists and is not an empty folder; name another, or remove it\n"


def test_a_model_is_exported_in_both_forms_and_one_without_a_place_there_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": cn_clip_model().state_dict()}, tmp_path / "clip.pt")
    published = {"file": str(tmp_path / "clip.pt"), "sha256": sha256(tmp_path / "clip.pt")}
    start = CnClip(kind="cn_clip", vocabulary=str(VOCABULARY), **published)
    encoder, tokens = load.load_weights(start, SIZE_PX, TOKENS)
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    call("tuwen", "export", "model", "hugging_face", "ours", "hf", cwd=tmp_path)
    call("tuwen", "export", "model", "cn_clip", "ours", "again.pt", cwd=tmp_path)
    file = tmp_path / "hf/model.safetensors"
    folder = HuggingFace(kind="hugging_face", model=str(tmp_path / "hf"), revision=sha256(file))
    again = start.model_copy(update={"file": str(tmp_path / "again.pt"), "sha256": sha256(tmp_path / "again.pt")})
    for form in (folder, again):
        state = load.load_weights(form, SIZE_PX, TOKENS)[0].state_dict()
        assert state.keys() == encoder.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in encoder.state_dict().items())

    dual_encoder.save_model(dual_encoder.DualEncoder(TINY), tmp_path / "tiny", ["[PAD]"])
    for form, kinds in (("hugging_face", "vit"), ("cn_clip", "vit or resnet")):
        refused = call("tuwen", "export", "model", form, "tiny", "none", cwd=tmp_path, fails=True)
        said = f"error: tiny: cannot be written as {form}: its picture tower is no {kinds} of CLIP's form; "
        assert refused.stderr.startswith(said + "`tuwen export model torch tiny none` can write it, and")
        assert not (tmp_path / "none").exists()


def test_a_form_without_a_place_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    dual_encoder.save_model(dual_encoder.DualEncoder(TINY), tmp_path / "tiny", ["[PAD]"])
    program = (
        "import sys\nfrom pathlib import Path\nfrom tuwen.core.errors import UserError\n"
        "from tuwen.model.weights.export import export_model\n"
        "try:\n    export_model('hugging_face', Path('tiny'), Path('out'))\n"
        "except UserError:\n    print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    assert call(sys.executable, "-c", program, cwd=tmp_path).stdout == "[]\n"


def test_the_command_of_the_readme_exports_a_model_of_the_samples_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's line for models/finetuned, on random weights of the sample's kind."""
    readme = text_of(Path("README.md"))
    (line,) = re.findall(r"^\| `tuwen (export model \S+ models/finetuned OUT)` \|", readme, re.M)
    shape = load_params(ROOT / "params.yaml")
    image = {"kind": "efficientnet_lite0", "mean": [0.5] * 3, "std": [0.5] * 3} | shape.image.model_dump()
    text = {"width": 64, "layers": 1, "dropout": 0.0, "pool": "mean"} | shape.text.model_dump()
    config: dict[str, Any] = {"dim": 16, "vocabulary": 40, "image": image, "text": text}
    torch.manual_seed(0)
    encoder = dual_encoder.DualEncoder(config).eval()
    vocabulary = [*SPECIAL_TOKENS, *(f"[{n}]" for n in range(len(SPECIAL_TOKENS), 40))]
    dual_encoder.save_model(encoder, tmp_path / "models/finetuned", vocabulary)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.app, line.split()).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == [
        *("image.pt2", "preprocessor.json", "text.pt2", "tokenizer.json", "vocab.txt")
    ]
    said = read_json(Path("OUT/preprocessor.json"))["image"]
    squares = torch.randint(0, 256, (3, shape.image.size_px, shape.image.size_px, 3), dtype=torch.uint8)
    by_rule = (squares / 255 - torch.tensor(said["mean"])) / torch.tensor(said["std"])
    pixels = make_pixel_tensor(list(squares.numpy()))
    torch.testing.assert_close(by_rule.permute(0, 3, 1, 2), pixels)
    ids = torch.randint(0, 40, (5, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [3], [1], [5], [2]])).long()
    images, texts = (torch.export.load(f"OUT/{name}.pt2").module() for name in ("image", "text"))
    with torch.no_grad():
        torch.testing.assert_close(images(pixels), encoder.encode_image(pixels))
        torch.testing.assert_close(images(pixels[:1]), encoder.encode_image(pixels[:1]))
        torch.testing.assert_close(texts(ids, mask), encoder.encode_text(ids, mask))


@pytest.mark.parametrize("kind", ["vit", "mean_vit"])
def test_programs_of_torch_take_any_number_of_pictures(kind: str, tmp_path: Path) -> None:
    image = TINY["image"] | {"kind": kind, "heads": 1, "mlp": 128, "activation": "gelu", "eps": 1e-5}
    encoder = dual_encoder.DualEncoder(TINY | {"image": image}).eval()
    dual_encoder.save_model(encoder, tmp_path / "ours", [*SPECIAL_TOKENS])
    export_model("torch", tmp_path / "ours", tmp_path / "out")
    program = torch.export.load(tmp_path / "out/image.pt2").module()
    with torch.no_grad():
        for batch in (1, 2, 5):
            torch.testing.assert_close(program(PIXELS[:batch]), encoder.encode_image(PIXELS[:batch]))


def test_a_model_whose_positions_follow_the_picture_is_no_program_of_torch(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"image": {"kind": "transformers", "library": {"model_type": "siglip2"}}})
    with pytest.raises(
        UserError, match=r"interpolated for each picture.*export model hugging_face .* can write it"
    ):
        export_model("torch", tmp_path, tmp_path / "out")
