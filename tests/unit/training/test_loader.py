"""Batches: the same bytes whatever the workers, entered midway, shared by processes, free of siblings."""

import multiprocessing
import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from tests.support.training import SIZE_PX, caption, drawn, members, settings, write_set, write_shard
from tuwen.core.errors import UserError
from tuwen.data.augment.stored_views import augment
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import text
from tuwen.data.formats.images import decode_pixels, make_pixel_tensor
from tuwen.training import loader, no_duplicates
from tuwen.training.dataset import Ask, Mixed, OnlineViews, StoredViews
from tuwen.training.loader import count_loading_workers, load_batches, normalised
from tuwen.training.streaming import StreamedViews

PARAMS = settings(augment={"views": 2}, validate={"min_side_px": 8, "max_pixels": 1_000_000, "max_chars": 200})


def viewer() -> Viewer:
    return Viewer(PARAMS.baseline.policy, SIZE_PX, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty pictures in train with two stored views each, 40 in corpus, a shard of ten with a broken picture."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder, "train", {"": range(20)})
    write_set(folder, "corpus", {"art": range(100, 140)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_WORKERS", "1")
        patch.chdir(folder)
        augment(folder / "clean", folder / "augmented", PARAMS.augment, PARAMS.image)
    (folder / "vocab.txt").write_text("\n".join(text.build_vocabulary(map(caption, range(300)))) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def mixed(data) -> Mixed:
    cut = [("cut.png", drawn(220)[:-60]), ("cut.txt", caption(220).encode())]
    listed = [write_shard(data / "far.tar", [*cut, *members(range(200, 210))], 11)]
    streamed = StreamedViews(listed, viewer(), PARAMS.validate_, weight=1.0, banned=frozenset())
    return Mixed(
        [StoredViews(data / "augmented", ["train"]), OnlineViews([data / "clean/corpus"], viewer()), streamed]
    )


def epoch(views, data, **asked) -> list[loader.Batch]:
    given = {"max_tokens": 24, "batch_size": 18, "seed": 0, "epoch": 1} | asked
    return list(load_batches(views, text.load_tokenizer(data / "vocab.txt"), **given))


def written(made: list[loader.Batch]) -> list[bytes]:
    return [pickle.dumps([column.numpy() for column in batch[:5]] + [batch.pair_ids]) for batch in made]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores
@pytest.mark.parametrize(("workers", "epochs"), [("2", [1, 2]), ("16", [2])])
def test_the_bytes_are_the_same_whatever_the_workers(mixed, data, monkeypatch, workers, epochs) -> None:
    monkeypatch.setattr(loader, "TASK_ROWS", 4)
    alone = [written(epoch(mixed, data, epoch=number)) for number in epochs]
    state = torch.get_rng_state()
    monkeypatch.setenv("TUWEN_WORKERS", workers)
    assert count_loading_workers() == int(workers)
    assert [written(epoch(mixed, data, epoch=number)) for number in epochs] == alone
    assert torch.equal(torch.get_rng_state(), state)  # the training's own draws stay where they are


def test_tasks_of_any_size_give_the_same_batches(mixed, data, monkeypatch) -> None:
    whole = written(epoch(mixed, data))
    monkeypatch.setattr(loader, "TASK_ROWS", 5)
    assert written(epoch(mixed, data)) == whole


def test_an_epoch_that_is_entered_midway_goes_on_as_the_whole_one_and_decodes_nothing_before(mixed, data) -> None:
    whole = written(epoch(mixed, data))
    assert len(whole) == (40 + 40 + 11) // 18
    calls: list[int] = []
    counted = Mixed([mixed])
    counted.makers = [lambda source, make=make: (calls.append(1), make(source))[1] for make in mixed.makers]
    assert written(epoch(counted, data, first_step=3)) == whole[3:]
    assert len(calls) <= 2 * 18 + 4  # a broken picture's neighbours are made once more
    assert epoch(mixed, data, first_step=5) == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shares_of_all_processes_are_the_batch_of_one(mixed, data, ranks) -> None:
    shares = [epoch(mixed, data, rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole, *parts in zip(epoch(mixed, data), *shares, strict=True):
        for name in ("pixels", "positive_id", "caption_id"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert sum((part.pair_ids for part in parts), ()) == whole.pair_ids
        rows = [row[mask > 0].tolist() for part in parts for row, mask in zip(part.ids, part.mask, strict=True)]
        assert rows == [row[mask > 0].tolist() for row, mask in zip(whole.ids, whole.mask, strict=True)]


def test_a_process_makes_its_own_share_alone(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    (make,), calls = views.makers, []
    views.makers = [lambda source: (calls.append(source), make(source))[1]]
    epoch(views, data, batch_size=20, rank=1, ranks=2)
    assert len(calls) == 20


def test_a_broken_picture_of_a_stream_is_counted_and_the_row_before_stands_in(mixed, data) -> None:
    streamed = mixed._parts[2]
    (batch,) = epoch(streamed, data, batch_size=11)
    asked = [ask.pair_id for ask in streamed.asked(0, 1)]
    place = next(n for n, pair_id in enumerate(asked) if pair_id.endswith("/cut"))
    asked[place] = asked[place - 1]
    assert list(batch.pair_ids) == asked
    assert torch.equal(batch.pixels[place], batch.pixels[place - 1])
    assert batch.positive_id[place] == batch.positive_id[place - 1]
    streamed.skipped.clear()
    epoch(streamed, data, batch_size=11)
    assert streamed.skipped == {"unreadable": 1}


def test_a_batch_without_a_sound_picture_and_a_lost_shard_end_the_training_from_any_process(
    data, tmp_path, monkeypatch
) -> None:
    cut = [(f"{n}.png", drawn(n)[:-60]) for n in range(3)] + [(f"{n}.txt", b"a") for n in range(3)]
    listed = [write_shard(tmp_path / "0.tar", sorted(cut), 3)]
    bad = StreamedViews(listed, viewer(), PARAMS.validate_, weight=1.0, banned=frozenset())
    lost = StoredViews(data / "augmented", ["train"])
    lost.makers = [type(lost.makers[0])(tmp_path)]
    for workers in ("1", "2"):
        monkeypatch.setenv("TUWEN_WORKERS", workers)
        with pytest.raises(UserError, match="no picture of a whole batch can be decoded"):
            epoch(bad, data, batch_size=3)
        with pytest.raises(UserError, match=r"^\S+000000\.tar: this shard is missing"):
            epoch(lost, data, batch_size=4)


def test_a_stored_view_that_is_broken_names_its_shard(data, tmp_path) -> None:
    whole = StoredViews(data / "augmented", ["train"])
    (tmp_path / "augmented/shards").mkdir(parents=True)
    encoded = bytearray((data / "augmented/shards/000000.tar").read_bytes())
    ask = next(whole.asked(0, 1))
    _, offset, size = ask.source
    encoded[offset : offset + size] = bytes(size)
    (tmp_path / "augmented/shards/000000.tar").write_bytes(encoded)
    with pytest.raises(UserError, match=rf"000000\.tar: the picture at byte {offset} cannot be decoded"):
        type(whole.makers[0])(tmp_path)(ask.source)


# Siblings


class Told:
    """Views that are told alone: (positive_id, caption) of each."""

    def __init__(self, *rows: tuple[str, str]) -> None:
        self.rows = rows
        self.times = 0

    def asked(self):
        self.times += 1
        assert self.times < 9, "told again without end"
        return iter([Ask(str(n), positive, said, 0, None) for n, (positive, said) in enumerate(self.rows)])


def apart(told: Told, batch_size: int, steps: int) -> list[list[str]]:
    rows = no_duplicates.without_siblings(told.asked, batch_size, steps)
    return [[ask.pair_id for ask in islice(rows, batch_size)] for _ in range(steps)]


def test_a_row_waits_for_the_first_batch_without_a_sibling_of_it() -> None:
    told = Told(("a", "猫"), ("a", "黑猫"), ("b", "猫"), ("c", "猫 "), ("d", "鱼"), ("e", "鸟"))
    whole = [["0", "4"], ["1", "2"], ["3", "5"]]
    assert apart(told, 2, 4) == [*whole, whole[0]]  # all shown: it begins anew


def test_batches_hold_no_two_rows_of_a_picture_or_caption_and_show_nearly_all(data, capsys) -> None:
    views = StoredViews(data / "augmented", ["train"])
    made = epoch(views, data, batch_size=8, apart=True)
    assert len(made) == 5
    for batch in made:
        assert len(batch.positive_id.unique()) == len(batch.caption_id.unique()) == 8
    assert max(Counter(name for batch in made for name in batch.pair_ids).values()) <= 3
    assert written(made) == written(epoch(views, data, batch_size=8, apart=True))
    assert written(made[2:]) == written(epoch(views, data, batch_size=8, apart=True, first_step=2))
    assert any(len(batch.positive_id.unique()) < 8 for batch in epoch(views, data, batch_size=8))


def test_what_finds_no_place_is_left_out_and_said_and_the_first_rows_stand_in(capsys, monkeypatch) -> None:
    told = Told(*(("a", f"第{n}只猫") for n in range(6)), ("b", "狗"), ("c", "鱼"), ("d", "鸟"))
    said = "siblings kept apart: {} rows found no batch in this epoch\n"
    assert apart(told, 2, 5) == [["0", "6"], ["1", "7"], ["2", "8"], ["3", "6"], ["4", "7"]]
    assert capsys.readouterr().out == said.format(1)  # row 5
    monkeypatch.setattr(no_duplicates, "LOOK_AHEAD", 1)
    assert apart(told, 2, 5) == [["0", "6"], ["1", "7"], ["8", "0"], ["1", "6"], ["7", "8"]]
    assert capsys.readouterr().out == said.format(4)  # rows 2 to 5
    assert len(list(no_duplicates.without_siblings(told.asked, 2, 5, tell=False))) == 10
    assert capsys.readouterr().out == ""


def test_an_epoch_with_too_few_different_pictures_for_a_batch_is_refused() -> None:
    told = Told(("a", "猫"), ("b", "狗"), ("a", "黑猫"), ("c", "狗"))
    with pytest.raises(UserError, match=r"siblings: apart: only 2 pairs of .* batch of 3; lower"):
        apart(told, 3, 1)


# Workers and pixels


def test_a_cpu_makes_its_batches_itself_unless_asked(monkeypatch) -> None:
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
    made = load_batches(views, tokenizer, max_tokens=24, batch_size=4, seed=0, epoch=1)
    next(made)
    assert len(multiprocessing.active_children()) == 2
    made.close()
    assert multiprocessing.active_children() == []


def test_normalising_where_the_step_is_gives_the_same_bits() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3).repeat(2, axis=0)
    assert torch.equal(normalised(torch.from_numpy(pixels)), make_pixel_tensor(list(pixels)))


def test_a_viewer_makes_the_same_views_after_it_was_sent(data) -> None:
    row = {"pair_id": "7", "positive_id": "7", "caption": caption(7), "paraphrase": None, "sided": False}
    picture = decode_pixels(drawn(7))
    for number in range(4):
        view = viewer().render(picture, row, number)
        assert np.array_equal(
            pickle.loads(pickle.dumps(viewer())).render(picture, row, number).pixels, view.pixels
        )
        assert viewer().plan(row, number) == (view.caption, view.flipped)
