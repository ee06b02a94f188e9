"""Batches: the same bytes whatever the workers, entered midway, shared by processes."""

import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from tests.support.training import SIZE_PX, caption, drawn, members, settings, write_set, write_shard
from tuwen.core.errors import UserError
from tuwen.data.augment.stored_views import augment
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import pairs, text
from tuwen.data.formats.images import decode_pixels, make_pixel_tensor
from tuwen.training import loader
from tuwen.training.dataset import OnlineViews, StoredViews, ViewSpec
from tuwen.training.loader import count_loading_workers, load_batches, normalise_pixels
from tuwen.training.streaming import Banned, StreamedViews
from tuwen.training.streams.mixed import MixedViews

PARAMS = settings(augment={"views": 2})


LIMITS = pairs.Limits(max_chars=200, max_pixels=1_000_000, min_side_px=8)


def make_viewer() -> Viewer:
    return Viewer(PARAMS.baseline.policy, SIZE_PX, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty images in train with two stored views each, 40 in corpus."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder, "train", {"": range(20)})
    write_set(folder, "corpus", {"art": range(100, 140)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_WORKERS", "1")
        patch.chdir(folder)
        augment(folder / "clean", folder / "augmented", PARAMS.augment, PARAMS.image)
    (folder / "vocab.txt").write_text("\n".join(text.build_vocabulary(map(caption, range(300)))) + "\n", "utf-8")
    return folder


def stream_far(data) -> StreamedViews:
    """Return the views of eleven pairs, of which one has a cut picture."""
    cut = [("cut.png", drawn(220)[:-60]), ("cut.txt", caption(220).encode())]
    listed = [write_shard(data / "far.tar", [*cut, *members(range(200, 210))], 11)]
    return StreamedViews(listed, make_viewer(), LIMITS, weight=1.0, banned=Banned())


@pytest.fixture(scope="module")
def mixed(data) -> MixedViews:
    stored, online = (
        StoredViews(data / "augmented", ["train"]),
        OnlineViews([data / "clean/corpus"], make_viewer()),
    )
    return MixedViews([stored, online, stream_far(data)])


def load_epoch(views, data, **changes) -> list[loader.Batch]:
    options = {"max_tokens": 24, "batch_size": 18, "seed": 0, "epoch": 1} | changes
    return list(load_batches(views, text.load_tokenizer(data / "vocab.txt"), **options))


def dump(batches: list[loader.Batch]) -> list[bytes]:
    return [pickle.dumps([column.numpy() for column in batch[:5]] + [batch.pair_ids]) for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores
@pytest.mark.parametrize(("workers", "epochs"), [("2", [1, 2]), ("16", [2])])
def test_the_bytes_are_the_same_whatever_the_workers(mixed, data, monkeypatch, workers, epochs) -> None:
    monkeypatch.setattr(loader, "TASK_ROWS", 4)
    alone = [dump(load_epoch(mixed, data, epoch=number)) for number in epochs]
    state = torch.get_rng_state()
    monkeypatch.setenv("TUWEN_WORKERS", workers)
    assert count_loading_workers() == int(workers)
    assert [dump(load_epoch(mixed, data, epoch=number)) for number in epochs] == alone
    assert torch.equal(torch.get_rng_state(), state)  # the training's own draws stay where they are


def test_captions_that_a_model_reads_alike_are_siblings(data, tmp_path) -> None:
    class Twins:
        dealt = False
        decoders = (lambda source: np.zeros((16, 16, 3), np.uint8),)

        def __len__(self) -> int:
            return 2

        def plan(self, seed: int, epoch: int, share=None, skip: int = 0):
            return (ViewSpec(str(n), str(n), words, 0, n) for n, words in enumerate(("龍貓公仔", "龙猫公仔")))

    vocabulary = text.build_vocabulary(["龙猫公仔"])
    for simplify, names in ((True, 1), (False, 2)):
        tokenizer = text.make_tokenizer(vocabulary, simplify)
        (batch,) = load_batches(Twins(), tokenizer, max_tokens=24, batch_size=2, seed=0, epoch=1)
        assert len(set(batch.caption_id.tolist())) == len({tuple(row) for row in batch.ids.tolist()}) == names


def test_tasks_of_any_size_give_the_same_batches(mixed, data, monkeypatch) -> None:
    whole = dump(load_epoch(mixed, data))
    monkeypatch.setattr(loader, "TASK_ROWS", 5)
    assert dump(load_epoch(mixed, data)) == whole


def test_an_epoch_that_is_entered_midway_goes_on_as_the_whole_one_and_decodes_nothing_before(mixed, data) -> None:
    whole = dump(load_epoch(mixed, data))
    assert len(whole) == (40 + 40 + 11) // 18
    calls: list[int] = []
    counted = MixedViews([mixed])
    counted.decoders = [lambda source, decode=one: (calls.append(1), decode(source))[1] for one in mixed.decoders]
    assert dump(load_epoch(counted, data, first_step=3)) == whole[3:]
    assert len(calls) <= 2 * 18 + 4  # a broken image's neighbours are decoded once more
    assert load_epoch(mixed, data, first_step=5) == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shares_of_all_processes_are_the_batch_of_one(mixed, data, ranks) -> None:
    stored = MixedViews(mixed._parts[:2])
    shares = [load_epoch(stored, data, rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole, *parts in zip(load_epoch(stored, data), *shares, strict=True):
        for name in ("pixels", "positive_id", "caption_id"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert sum((part.pair_ids for part in parts), ()) == whole.pair_ids
        rows = [row[mask > 0].tolist() for part in parts for row, mask in zip(part.ids, part.mask, strict=True)]
        assert rows == [row[mask > 0].tolist() for row, mask in zip(whole.ids, whole.mask, strict=True)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_where_shards_are_streamed_each_process_plans_and_resumes_its_own_rows(mixed, data, ranks) -> None:
    seen: list[str] = []
    for rank in range(ranks):
        batches = load_epoch(mixed, data, rank=rank, ranks=ranks)
        assert [len(batch.pixels) for batch in batches] == [18 // ranks] * 5
        seen += [name for batch in batches for name in batch.pair_ids]
        assert dump(load_epoch(mixed, data, rank=rank, ranks=ranks, first_step=3)) == dump(batches[3:])
    assert len(set(seen)) > 55  # of 71 pairs in 90 rows: a stored one has two views
    shown = Counter(seen)
    assert max(shown.values()) <= 3


def test_a_process_decodes_its_own_share_alone(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    (decode,), calls = views.decoders, []
    views.decoders = [lambda source: (calls.append(source), decode(source))[1]]
    load_epoch(views, data, batch_size=20, rank=1, ranks=2)
    assert len(calls) == 20


def test_a_broken_image_of_a_stream_is_counted_and_the_row_before_stands_in(data) -> None:
    streamed = stream_far(data)
    (batch,) = load_epoch(streamed, data, batch_size=11)
    planned = [spec.pair_id for spec in streamed.plan(0, 1)]
    place = next(n for n, pair_id in enumerate(planned) if pair_id.endswith("/cut"))
    planned[place] = planned[place - 1]
    assert list(batch.pair_ids) == planned
    assert torch.equal(batch.pixels[place], batch.pixels[place - 1])
    assert batch.positive_id[place] == batch.positive_id[place - 1]
    assert streamed.count_skipped() == {"unreadable": 1}
    load_epoch(streamed, data, batch_size=11, epoch=2)
    assert streamed.count_skipped() == {"unreadable": 1}


@pytest.mark.parametrize("apart", [False, True])
def test_an_image_that_proved_broken_before_a_kill_is_counted_after_it(data, apart: bool) -> None:
    options = {"max_tokens": 24, "batch_size": 2, "seed": 3, "epoch": 1, "apart": apart}
    tokenizer = text.load_tokenizer(data / "vocab.txt")
    for steps in range(1, 6):
        views, resumed = stream_far(data), stream_far(data)
        batches = load_batches(views, tokenizer, **options)
        before = [next(batches) for _ in range(steps)]
        resumed.set_state(views.get_state())
        batches.close()
        after = load_epoch(resumed, data, **options, first_step=steps) if steps < 5 else []
        assert len(before + after) == 5
        assert resumed.count_skipped() == {"unreadable": 1}


def test_a_batch_without_a_sound_image_and_a_lost_shard_end_the_training_from_any_process(
    data, tmp_path, monkeypatch
) -> None:
    cut = [(f"{n}.png", drawn(n)[:-60]) for n in range(3)] + [(f"{n}.txt", b"a") for n in range(3)]
    listed = [write_shard(tmp_path / "0.tar", sorted(cut), 3)]
    bad = StreamedViews(listed, make_viewer(), LIMITS, weight=1.0, banned=Banned())
    lost = StoredViews(data / "augmented", ["train"])
    lost.decoders = [type(lost.decoders[0])(tmp_path)]
    for workers in ("1", "2"):
        monkeypatch.setenv("TUWEN_WORKERS", workers)
        with pytest.raises(UserError, match=r"no picture of a whole batch can be shown, .* is unreadable"):
            load_epoch(bad, data, batch_size=3)
        with pytest.raises(UserError, match=r"^\S+000000\.tar: this shard is missing"):
            load_epoch(lost, data, batch_size=4)


def test_a_stored_view_that_is_broken_names_its_shard(data, tmp_path) -> None:
    whole = StoredViews(data / "augmented", ["train"])
    (tmp_path / "augmented/shards").mkdir(parents=True)
    encoded = bytearray((data / "augmented/shards/000000.tar").read_bytes())
    spec = next(whole.plan(0, 1))
    _, offset, size = spec.source
    encoded[offset : offset + size] = bytes(size)
    (tmp_path / "augmented/shards/000000.tar").write_bytes(encoded)
    with pytest.raises(UserError, match=rf"000000\.tar: the picture at byte {offset} cannot be decoded"):
        type(whole.decoders[0])(tmp_path)(spec.source)


def test_batches_hold_no_two_rows_of_an_image_or_caption_and_show_nearly_all(data, capsys) -> None:
    views = StoredViews(data / "augmented", ["train"])
    batches = load_epoch(views, data, batch_size=8, apart=True)
    assert len(batches) == 5
    for batch in batches:
        assert len(batch.positive_id.unique()) == len(batch.caption_id.unique()) == 8
    assert max(Counter(name for batch in batches for name in batch.pair_ids).values()) <= 3
    assert dump(batches) == dump(load_epoch(views, data, batch_size=8, apart=True))
    assert dump(batches[2:]) == dump(load_epoch(views, data, batch_size=8, apart=True, first_step=2))
    assert any(len(batch.positive_id.unique()) < 8 for batch in load_epoch(views, data, batch_size=8))


def test_a_cpu_decodes_its_batches_itself_unless_workers_are_set(monkeypatch) -> None:
    monkeypatch.delenv("TUWEN_WORKERS", raising=False)
    assert count_loading_workers() == 0
    monkeypatch.setenv("TUWEN_WORKERS", "1")
    assert count_loading_workers() == 0
    monkeypatch.setenv("TUWEN_WORKERS", "3")
    assert count_loading_workers() == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TUWEN_WORKERS", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert count_loading_workers() == 4


def test_a_training_that_ends_early_leaves_no_process(data, monkeypatch) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    views, tokenizer = StoredViews(data / "augmented", ["train"]), text.load_tokenizer(data / "vocab.txt")
    batches = load_batches(views, tokenizer, max_tokens=24, batch_size=4, seed=0, epoch=1)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_normalising_where_the_step_is_gives_the_same_bits() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3).repeat(2, axis=0)
    assert torch.equal(normalise_pixels(torch.from_numpy(pixels)), make_pixel_tensor(list(pixels)))


def test_a_viewer_makes_the_same_views_after_it_was_sent(data) -> None:
    row = {"pair_id": "7", "positive_id": "7", "caption": caption(7), "paraphrase": None, "mirroring": "free"}
    picture = decode_pixels(drawn(7))
    for number in range(4):
        view = make_viewer().render(picture, row, number)
        assert np.array_equal(
            pickle.loads(pickle.dumps(make_viewer())).render(picture, row, number).pixels, view.pixels
        )
        assert make_viewer().plan(row, number) == (view.caption, view.flipped)
