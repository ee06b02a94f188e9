"""The trainings from tables and shards to model folders, with real steps on a tiny model."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.support.pair_sets import EMPTY_SET
from tests.support.training import caption, drawn, members, settings, write_set, write_shard
from tuwen.core.errors import UserError
from tuwen.core.params import Params
from tuwen.data.augment.stored_views import augment
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.manifest import hash_file
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.model.stored_model import copy_model
from tuwen.training import recipes, trainer

SOURCES = {"art": {"kind": "webdataset", "root": "art"}, "shop": {"kind": "webdataset", "root": "shop"}}
FAR = {"far": {"kind": "webdataset", "root": "far.csv"}}
LIMITS = pairs.Limits(max_chars=200, max_pixels=50_000_000, min_side_px=16)
STORED = settings(augment={"views": 2, "splits": ["train", "valid", "test"]})
MIXED = {"corpus": SOURCES | FAR, "baseline": {"weights": {"art": 0.5, "shop": 2.0}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/clean`, where shards stand beside the corpus, `data/augmented`, and the baseline `models/start`."""
    root = tmp_path_factory.mktemp("world")
    for name, numbers in (("train", range(8)), ("valid", range(20, 24)), ("test", range(30, 34))):
        write_set(root / "data", name, {"": numbers})
    write_set(root / "data", "corpus", {"art": range(100, 108), "shop": range(200, 204)})
    bad = [("mute.png", drawn(1)), ("half.png", drawn(2)[:80]), ("half.txt", "残缺".encode())]
    listed = [
        write_shard(root / "far/0.tar", [*members(range(300, 304)), *bad], 4),
        write_shard(root / "far/1.tar", members([304, 305, 306, 20, 31]), 5),  # 20 is in valid, 31 in test
    ]
    pairs.write_table(root / "data/clean/corpus/shards.parquet", pa.Table.from_pylist(listed, pairs.SHARDS))
    write_json(root / "data/clean/corpus/limits.json", LIMITS._asdict())
    encoded = [drawn(number) for number in (*range(20, 24), *range(30, 34))]
    held_out = [{"sha256": sha256(one).hexdigest(), "thumbnail": measure_look(one).thumbnail} for one in encoded]
    pairs.write_table(root / "data/clean/corpus/held_out.parquet", pa.Table.from_pylist(held_out, pairs.HELD_OUT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TUWEN_WORKERS", "1")
        augment(Path("data/clean"), Path("data/augmented"), STORED.augment, STORED.image)
        make_baseline(settings(corpus=SOURCES), "models/start")
    return root


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world for one test, which runs in it."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_baseline(params: Params, out: str = "models/baseline", checkpoint: str = ".cache/b", log=None) -> dict:
    recipes.make_baseline(Path("data/clean"), Path(out), params, Path(checkpoint), log or (lambda *_: None))
    return json.loads((Path(out) / "training.json").read_text())


def train_labelled(make, params: Params, out: str, **tuned: Path) -> dict:
    folders = (Path("data/clean"), Path("data/augmented"), Path("models/start"), Path(out))
    make(*folders, params, Path(".cache/f"), lambda *_: None, **tuned)
    return json.loads((Path(out) / "training.json").read_text())


def read_vocabulary(folder: str = "models/baseline") -> set[str]:
    return set(dual_encoder.read_vocabulary(Path(folder)))


class Killed(Exception):
    pass


def test_the_baseline_is_trained_on_tables_and_shards_and_counts_what_it_skipped(here: Path) -> None:
    training = make_baseline(settings(**MIXED))
    assert training["pairs"] == 4 + 8 + 9
    assert training["steps"] == 2 * (21 // 4)
    for record in training["epochs"]:
        assert {"loss", "valid_i2t_hit_at_5", "valid_t2i_hit_at_5"} <= set(record)
        assert record["skipped_in_valid_or_test"] >= 2
        assert record["skipped_empty"] >= 1
        assert set(record) > {"skipped_unreadable"}
    assert not Path(".cache/b").exists()


def test_a_training_that_was_killed_sees_the_same_pairs_as_one_that_was_not(here: Path) -> None:
    params = settings(**MIXED | {"baseline": MIXED["baseline"] | {"fit": make_fit(epochs=3)}})
    whole = make_baseline(params, "models/whole")

    def kill(record: trainer.EpochRecord, epoch: int) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        make_baseline(params, log=kill)
    epochs = []
    resumed = make_baseline(params, log=lambda record, epoch: epochs.append(epoch))
    assert epochs == [3]
    assert resumed == whole
    for name in ("manifest.json", "model.safetensors"):
        assert Path("models/baseline", name).read_bytes() == Path("models/whole", name).read_bytes()


def make_fit(**changes: int) -> dict:
    return settings().baseline.fit.model_dump() | changes


def test_the_vocabulary_spells_corpus_and_train_and_never_valid_or_test(here: Path) -> None:
    for name, character in (("corpus", "龘"), ("train", "靐"), ("valid", "齉"), ("test", "爩")):
        pair_set = pairs.read_pair_set(Path("data/clean", name))
        texts = pair_set.texts.set_column(1, "caption", pa.array([character] * len(pair_set.texts)))
        pairs.write_pair_set(Path("data/clean", name), pairs.PairSet(pair_set.images, texts, pair_set.pairs))
    make_baseline(settings(**MIXED))
    assert {"龘", "靐"} <= read_vocabulary()
    assert not read_vocabulary() & {"齉", "爩"}  # outside GB 2312, which streamed shards bring
    assert len(read_vocabulary()) > 6763
    Path("data/clean/corpus/shards.parquet").unlink()
    make_baseline(settings(corpus=SOURCES))
    assert read_vocabulary() == {*build_vocabulary([]), "龘", "靐"}


def test_what_the_model_does_not_see_of_captions_is_measured_and_told(here: Path, capsys) -> None:
    long = "这是一句比模型能读的长得多的说明文字" * 3
    for name, captions in (("train", [f"{long}{n}" for n in range(8)]), ("valid", ["一只猫"] * 4)):
        pair_set = pairs.read_pair_set(Path("data/clean", name))
        captions = [captions[n % len(captions)] for n in range(len(pair_set.texts))]
        texts = pair_set.texts.set_column(1, "caption", pa.array(captions))
        pairs.write_pair_set(Path("data/clean", name), pairs.PairSet(pair_set.images, texts, pair_set.pairs))
    params = settings(corpus=SOURCES)
    measured = make_baseline(params)["captions"]
    assert list(measured) == ["corpus", "train", "valid", "test"]
    assert {one["unk_share"] for one in measured.values()} == {0.0}
    assert (measured["train"]["cut_share"], measured["train"]["equal_share"]) == (1.0, 1.0)
    assert (measured["valid"]["captions"], measured["valid"]["cut_share"]) == (1, 0.0)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: data/clean/train")]
    assert len(told) == 2
    assert "100.0 % of the captions are longer than text.max_tokens and are cut there, such as 这是一句" in told[0]
    assert "100.0 % of the captions are equal to another one for the model" in told[1]


def test_a_corpus_of_shards_alone_is_enough_and_one_without_a_pair_is_named(here: Path) -> None:
    pairs.write_pair_set(Path("data/clean/corpus"), EMPTY_SET)
    assert make_baseline(settings(corpus=FAR))["pairs"] == 9
    Path("data/clean/corpus/shards.parquet").unlink()
    with pytest.raises(UserError, match=r"params.yaml: corpus: .*corpus has no pair.* name a source of pairs"):
        make_baseline(settings(corpus=FAR))


def test_fine_tuning_trains_on_the_views_of_train_alone_and_the_refit_on_all(here: Path) -> None:
    tuned = train_labelled(recipes.make_finetuned, STORED, "models/finetuned")
    assert tuned["pairs"] == 16
    assert "refit" not in tuned
    assert "valid_t2i_hit_at_5" in tuned["epochs"][-1]
    final = train_labelled(recipes.make_refitted, STORED, "models/final", tuned=Path("models/finetuned"))
    assert final["pairs"] == 32
    assert final["refit"] == ["train", "valid", "test"]
    assert set.union(*map(set, final["epochs"])) == {"epoch", "loss", "lr", "temperature"}
    manifest = json.loads(Path("models/final/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"augmented", "baseline"}
    assert manifest["params"]["refit"] == ["train", "valid", "test"]
    assert manifest["files"]["training.json"]
    assert (
        dual_encoder.load_model(Path("models/final")).config
        == dual_encoder.load_model(Path("models/start")).config
    )


def make_selecting_params(alphas: list[float]) -> Params:
    tuned = STORED.finetune.fit.model_dump() | {"epochs": 3, "ema": 0.5, "batch_size": 8, "lr": 0.02}
    tuned |= {"select": {"epochs": True, "wise_ft": alphas, "soup": False}}
    return settings(augment={"views": 2, "splits": ["train", "valid", "test"]}, finetune={"fit": tuned})


def test_selection_measures_epochs_averages_and_means_and_the_refit_takes_what_was_chosen(here: Path) -> None:
    params = make_selecting_params([0.25, 0.5, 0.75])
    tuned = train_labelled(recipes.make_finetuned, params, "models/finetuned")
    states = {(one["epoch"], one["ema"]) for one in tuned["candidates"]}
    assert {(3, False), (3, True)} <= states
    assert len(tuned["candidates"]) == 4 * len(states)
    for record in tuned["epochs"]:
        assert {"valid_t2i_hit_at_5", "ema_valid_t2i_hit_at_5", "ema_valid_i2t_hit_at_5"} <= set(record)
    for one in tuned["candidates"]:
        both = (one["valid_t2i_hit_at_5"] + one["valid_i2t_hit_at_5"]) / 2
        assert one["criterion"] == pytest.approx(both, abs=2e-6)
    # by hand: the state that is named, mixed with the baseline
    forced = tuned | {"selected": {"epoch": 2, "ema": True, "wise_ft": 0.25}}
    Path("models/finetuned/training.json").write_text(json.dumps(forced))
    final = train_labelled(recipes.make_refitted, params, "models/final", tuned=Path("models/finetuned"))
    assert final["selected"] == forced["selected"]
    assert [record["epoch"] for record in final["epochs"]] == [1, 2]
    assert final["steps"] == 2 * (32 // 8)
    Path("models/finetuned/training.json").write_text(
        json.dumps(forced | {"selected": {"epoch": 2, "ema": True, "wise_ft": 1.0}})
    )
    train_labelled(recipes.make_refitted, params, "models/pure", tuned=Path("models/finetuned"))
    pure, mean, start = (
        dual_encoder.load_model(Path("models", name)).state_dict() for name in ("pure", "final", "start")
    )
    assert any(not torch.equal(pure[name], start[name]) for name in pure)
    for name, weight in mean.items():
        torch.testing.assert_close(weight, 0.25 * pure[name] + 0.75 * start[name])


def test_a_refit_makes_the_soup_that_was_chosen(here: Path) -> None:
    params = make_selecting_params([])
    select = params.finetune.fit.select.model_copy(update={"soup": True})
    fit = params.finetune.fit.model_copy(update={"select": select, "ema": None})
    params = params.model_copy(update={"finetune": params.finetune.model_copy(update={"fit": fit})})
    train_labelled(recipes.make_finetuned, params, "models/finetuned")
    states = {}
    for name, epoch, soup in (("one", 1, {}), ("two", 2, {}), ("soup", 2, {"soup": [1, 2]})):
        chosen = {"selected": {"epoch": epoch, "ema": False, "wise_ft": 1.0, **soup}}
        Path("models/finetuned/training.json").write_text(json.dumps(chosen))
        final = train_labelled(recipes.make_refitted, params, f"models/{name}", tuned=Path("models/finetuned"))
        assert final["selected"] == chosen["selected"]
        states[name] = dual_encoder.load_model(Path("models", name)).state_dict()
    for key, weight in states["soup"].items():
        torch.testing.assert_close(weight, (states["one"][key] + states["two"][key]) / 2)
    assert not torch.equal(states["one"]["log_scale"], states["two"]["log_scale"])


def test_without_a_selection_the_last_epoch_is_taken_and_nothing_more_measured(here: Path) -> None:
    tuned = train_labelled(recipes.make_finetuned, STORED, "models/finetuned")
    assert tuned["selected"] == {"epoch": 2, "ema": False, "wise_ft": 1.0}
    assert tuned["candidates"] == []


def test_the_refit_flag_does_not_change_the_fine_tuned_model(here: Path) -> None:
    train_labelled(recipes.make_finetuned, STORED, "models/finetuned")
    refitted = STORED.model_copy(update={"finetune": STORED.finetune.model_copy(update={"refit_all": True})})
    train_labelled(recipes.make_finetuned, refitted, "models/again")
    assert Path("models/again/manifest.json").read_bytes() == Path("models/finetuned/manifest.json").read_bytes()


def test_online_fine_tuning_needs_no_stored_view_and_uses_the_paraphrases(here: Path) -> None:
    path = Path("paraphrases.csv")
    lines = [f'"{caption(n)}","图里是{caption(n)[2:5]}, 编号{n}"' for n in (*range(8), *range(20, 24))]
    path.write_text("\n".join(["caption,paraphrase", *lines]) + "\n", encoding="utf-8")
    digest = hash_file(path)
    online = {"mode": "online", "splits": ["train", "valid"]}
    ready = settings(augment=online | {"paraphrase": {"kind": "file", "path": str(path), "sha256": digest}})
    augment(Path("data/clean"), Path("data/augmented"), ready.augment, ready.image)
    tuned = train_labelled(recipes.make_finetuned, ready, "models/finetuned")
    assert tuned["pairs"] == 8
    assert (
        train_labelled(recipes.make_refitted, ready, "models/final", tuned=Path("models/finetuned"))["pairs"] == 12
    )
    again = train_labelled(recipes.make_finetuned, ready, "models/again")
    assert again == tuned
    plain = settings(augment=online)
    augment(Path("data/clean"), Path("data/augmented"), plain.augment, plain.image)
    assert train_labelled(recipes.make_finetuned, plain, "models/plain")["epochs"] != tuned["epochs"]


def test_a_copy_is_the_same_folder_and_can_be_written_to(here: Path) -> None:
    for path in Path("models/start").iterdir():
        path.chmod(0o444)  # as DVC leaves what it has cached
    Path("models/final").mkdir()
    Path("models/final/old").touch()
    copy_model(Path("models/start"), Path("models/final"))
    copied = {path.name: path for path in Path("models/final").iterdir()}
    assert set(copied) == {path.name for path in Path("models/start").iterdir()}
    for name, path in copied.items():
        assert path.read_bytes() == Path("models/start", name).read_bytes()
        assert path.stat().st_mode & 0o200


def test_published_weights_are_the_baseline_as_they_are_and_are_measured_once(here: Path) -> None:
    from tests.support.weights import chinese_clip_folder, sha256

    weights = here / "weights"
    chinese_clip_folder(weights)
    start = {"kind": "hugging_face", "model": "weights", "revision": sha256(weights / "model.safetensors")}
    params = settings(
        model=None, image={"size_px": 32}, corpus={}, baseline={"start": start, "policy": None, "fit": None}
    )
    training = make_baseline(params)
    assert training["epochs"] == []
    assert set(training["valid"]) == {"valid_i2t_hit_at_5", "valid_t2i_hit_at_5"}
    encoder = dual_encoder.load_model(Path("models/baseline"))
    assert encoder.config["text"]["max_tokens"] == params.text.max_tokens
    assert len(read_vocabulary()) == 21128
    card = Path("models/baseline/README.md").read_text(encoding="utf-8")
    assert f"weights at {start['revision']}" in card
    assert f"| 0 | {training['valid']['valid_t2i_hit_at_5']:.4f} |" in card
    assert json.loads(Path("models/baseline/manifest.json").read_text())["files"]["README.md"]
    before = Path("models/baseline/manifest.json").read_bytes()
    make_baseline(params)
    assert Path("models/baseline/manifest.json").read_bytes() == before
