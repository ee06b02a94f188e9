"""Views of pairs, stored and fresh: which an epoch shows, in which order, with which pixels."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from tests.support.training import SIZE_PX, caption, decode_all, drawn, settings, write_set
from tuwen.data.augment.stored_views import augment
from tuwen.data.augment.views import Viewer, list_rows
from tuwen.data.formats import pairs, text
from tuwen.data.formats.images import decode_image
from tuwen.training.dataset import OnlineViews, StoredViews, compute_window
from tuwen.training.loader import load_batches
from tuwen.training.streams.mixed import MixedViews

POLICY = settings().baseline.policy


def make_viewer() -> Viewer:
    return Viewer(POLICY, SIZE_PX, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clean sets: seven images in train, three in valid, a corpus of two sources; views of train and valid."""
    folder = tmp_path_factory.mktemp("data")
    write_set(folder, "train", {"": range(7)})
    write_set(folder, "valid", {"": range(50, 53)})
    write_set(folder, "corpus", {"art": range(100, 110), "shop": range(200, 207)})
    params = settings(augment={"views": 2, "splits": ["train", "valid"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_WORKERS", "1")
        patch.chdir(folder)
        augment(folder / "clean", folder / "augmented", params.augment, params.image)
    captions = [caption(n) for n in (*range(7), *range(50, 53), *range(100, 110), *range(200, 207))]
    (folder / "vocab.txt").write_text("\n".join(text.build_vocabulary(captions)) + "\n", encoding="utf-8")
    return folder


def load_epoch(views, data, number: int, batch_size: int = 3) -> list:
    tokenizer = text.load_tokenizer(data / "vocab.txt")
    return list(load_batches(views, tokenizer, max_tokens=24, batch_size=batch_size, seed=0, epoch=number))


def list_rows_shown(batches: list) -> list:
    """Return what tells one row from another: its pixels and its caption's tokens."""
    return [
        (pixels.sum().item(), tuple(ids[ids > 0].tolist()))
        for b in batches
        for pixels, ids in zip(b.pixels, b.ids, strict=True)
    ]


def list_names(views, number: int, seed: int = 0) -> list[str]:
    return [item.positive_id for item in decode_all(views, seed, number)]


def shuffle(rows: int, seed: int, number: int) -> list[int]:
    """Return the order that recorded results were trained in."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + number)).tolist()


def test_online_views_are_new_in_each_epoch_and_the_same_in_each_run(data) -> None:
    views = OnlineViews([data / "clean/train"], make_viewer())
    assert len(views) == 7
    seen = {n: {item.positive_id: item for item in decode_all(views, 0, n)} for n in (1, 2)}
    again = {
        item.positive_id: item for item in decode_all(OnlineViews([data / "clean/train"], make_viewer()), 3, 1)
    }
    for name in map(str, range(7)):
        assert np.array_equal(seen[1][name].pixels, again[name].pixels)
        assert not np.array_equal(seen[1][name].pixels, seen[2][name].pixels)
        assert seen[1][name].caption == caption(int(name))


def test_view_number_and_order_of_an_unweighted_set_are_those_of_the_epoch(data) -> None:
    views = OnlineViews([data / "clean/train"], make_viewer())
    for number in (1, 4):
        assert list_names(views, number, seed=5) == [str(row) for row in shuffle(7, 5, number)]
    rows = {row["pair_id"]: row for row in list_rows(pairs.read_pair_set(data / "clean/train"), {}).to_pylist()}
    shown = decode_all(views, 5, 4)[0]
    picture = decode_image(drawn(int(shown.positive_id)))
    assert np.array_equal(shown.pixels, make_viewer().render(picture, rows[shown.positive_id], 4).pixels)


def test_stored_views_are_what_augment_wrote_for_the_named_splits(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    assert len(views) == 14
    assert list_names(views, 1) == [str(row // 2) for row in shuffle(14, 0, 1)]
    stored = [item for item in decode_all(views, 0, 9) if item.positive_id == "3"]
    assert [item.pixels.shape for item in stored] == [(SIZE_PX, SIZE_PX, 3)] * 2
    both = StoredViews(data / "augmented", ["train", "valid"])
    assert Counter(list_names(both, 1)) == dict.fromkeys((*map(str, range(7)), "50", "51", "52"), 2)
    assert len(StoredViews(data / "augmented", ["test"])) == 0


def test_an_epoch_sees_each_row_at_most_once_and_drops_what_fills_no_batch(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    batches = load_epoch(views, data, 1)
    assert [len(batch.ids) for batch in batches] == [3, 3, 3, 3]
    assert all(batch.pixels.shape == (3, 3, SIZE_PX, SIZE_PX) for batch in batches)
    orders = [list_rows_shown(load_epoch(views, data, n)) for n in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert len(set(orders[0])) == 12


def test_rows_of_one_image_and_equal_captions_share_their_ids(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    (batch,) = load_epoch(views, data, 1, batch_size=14)
    assert batch.positive_id.unique(return_counts=True)[1].tolist() == [2] * 7
    same = [batch.positive_id[i] == batch.positive_id[j] for i in range(14) for j in range(14)]
    assert same == [batch.caption_id[i] == batch.caption_id[j] for i in range(14) for j in range(14)]
    assert Counter(batch.pair_ids) == {str(n): 2 for n in range(7)}


def test_a_window_takes_every_place_of_the_walk_once() -> None:
    for rows, weight in ((10, 0.1), (7, 0.5), (3, 2.0), (5, 1.0), (11, 1.3), (4, 0.05)):
        taken = [place for n in range(1, 41) for place in compute_window(rows, weight, n)]
        assert taken == list(range(round(rows * weight * 40)))
        assert min(len(compute_window(rows, weight, n)) for n in range(1, 41)) == len(
            compute_window(rows, weight, 1)
        )
    assert [len(compute_window(10, 0.1, n)) for n in range(1, 30)] == [1] * 29  # 0.1 is a tenth, not a float


def test_weights_say_how_often_each_pair_of_a_source_is_shown(data) -> None:
    views = OnlineViews([data / "clean/corpus"], make_viewer(), weights={"art": 0.5, "shop": 2.0})
    assert len(views) == 5 + 14
    halves = []
    for number in range(1, 5):
        seen = Counter(list_names(views, number))
        assert {name: seen[name] for name in seen if name.startswith("shop/")} == {
            f"shop/{n}": 2 for n in range(200, 207)
        }
        halves.append({name for name in seen if name.startswith("art/")})
        assert sum(seen[name] for name in halves[-1]) == 5
    assert halves[0] == halves[2]
    assert halves[1] == halves[3]
    assert halves[0] | halves[1] == {f"art/{n}" for n in range(100, 110)}
    assert halves[0] != {f"art/{n}" for n in range(100, 105)}  # not the first ones of the table


def test_a_pair_that_is_shown_twice_in_an_epoch_has_two_views_and_each_epoch_new_ones(data) -> None:
    views = OnlineViews([data / "clean/corpus"], make_viewer(), weights={"shop": 2.0})
    shown = [
        item.pixels.tobytes()
        for n in (1, 2, 3)
        for item in decode_all(views, 0, n)
        if item.positive_id == "shop/203"
    ]
    assert len(shown) == len(set(shown)) == 6


def test_an_uneven_weight_never_shortens_an_epoch(data) -> None:
    views = OnlineViews([data / "clean/corpus"], make_viewer(), weights={"art": 0.33, "shop": 1.5})
    counts = Counter(name.split("/")[0] for n in range(1, 101) for name in list_names(views, n))
    assert counts == {"art": 330, "shop": 1050}
    assert len(views) == 3 + 10
    assert {len(load_epoch(views, data, n, batch_size=13)) for n in range(1, 5)} == {1}


def test_a_mixture_takes_from_each_part_what_it_has(data) -> None:
    stored, online = (
        StoredViews(data / "augmented", ["train"]),
        OnlineViews([data / "clean/corpus"], make_viewer()),
    )
    mixed = MixedViews([stored, online])
    assert len(mixed) == 14 + 17
    seen = list_names(mixed, 1)
    assert [name for name in seen if "/" in name] == list_names(online, 1)
    assert [name for name in seen if "/" not in name] == list_names(stored, 1)
    assert seen == list_names(mixed, 1)
    assert ["/" in name for name in seen] != ["/" in name for name in list_names(mixed, 2)]
    first = sum("/" in name for name in seen[:16])
    assert 4 < first < 13  # not one part after the other


def test_pictures_are_kept_by_the_process_that_plans_and_not_by_workers(data) -> None:
    views = StoredViews(data / "augmented", ["train"])
    (decode,), source = views.decoders, next(views.plan(0, 1)).source
    sent = pickle.loads(pickle.dumps(decode))
    assert decode(source) is decode(source)
    assert sent(source) is not sent(source)
    assert np.array_equal(sent(source), decode(source))


def test_paraphrases_stand_in_for_half_of_the_captions(data) -> None:
    paraphrases = {caption(n): f"第{n}张图里有一个图形" for n in range(7)}
    views = OnlineViews([data / "clean/train"], make_viewer(), paraphrases=paraphrases)
    seen = [item.caption for n in range(1, 21) for item in decode_all(views, 0, n)]
    assert 40 < sum(one in paraphrases.values() for one in seen) < 100
    assert set(seen) == {*paraphrases, *paraphrases.values()}


def test_pairs_that_do_not_fit_are_never_shown(data) -> None:
    odd = pairs.read_pair_set(write_set(data, "odd", {"": range(4)}))
    labels = pairs.pa.array([1, 0, None, 0], pairs.PAIRS.field("label").type)
    doubted = odd.pairs.set_column(odd.pairs.schema.get_field_index("label"), "label", labels)
    pairs.write_pair_set(data / "clean/odd", pairs.PairSet(odd.images, odd.texts, doubted))
    assert sorted(list_names(OnlineViews([data / "clean/odd"], make_viewer()), 1)) == ["0", "2"]


def test_of_so_many_different_views_the_epochs_show_each_in_turn(data) -> None:
    views = OnlineViews([data / "clean/train"], make_viewer(), different=2)
    of_epochs = [{spec.key: spec.caption for spec in views.plan(0, epoch)} for epoch in range(1, 5)]
    assert of_epochs[0] == of_epochs[2] != of_epochs[1] == of_epochs[3]
    assert of_epochs[0].keys() == {(str(row), 1) for row in range(7)}
    images = [{item.positive_id: item.pixels for item in decode_all(views, 0, epoch)} for epoch in (1, 2, 3)]
    assert all(np.array_equal(images[0][name], images[2][name]) for name in images[0])
    assert not all(np.array_equal(images[0][name], images[1][name]) for name in images[0])


def test_the_names_of_an_epoch_are_those_of_the_views_it_shows(data) -> None:
    stored = StoredViews(data / "augmented", ["train"])
    fresh = OnlineViews([data / "clean/corpus"], make_viewer(), weights={"art": 2.0, "shop": 0.5})
    for views in (stored, fresh, MixedViews([stored, fresh])):
        table = views.list_names(3)
        listed = Counter(zip(*(table[name].to_pylist() for name in ("positive_id", "caption")), strict=True))
        assert listed == Counter((spec.positive_id, spec.caption) for spec in views.plan(3, 1))
