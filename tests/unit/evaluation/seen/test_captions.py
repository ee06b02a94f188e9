import pyarrow as pa

from tuwen.data.formats import pairs
from tuwen.evaluation.seen.captions import describe_seen, find_seen_texts


def make_set(*captions: str | None, label: int | None = None) -> pairs.PairSet:
    """One image and one text for each caption; the last pair has the label."""
    labels = [None] * (len(captions) - 1) + [label]
    images = [{"image_id": f"图{n}"} for n in range(len(captions))]
    texts = [{"text_id": f"句{n}", "caption": caption} for n, caption in enumerate(captions)]
    links = [
        {"pair_id": f"对{n}", "image_id": f"图{n}", "text_id": f"句{n}", "label": one}
        for n, one in enumerate(labels)
    ]
    schemas = zip((images, texts, links), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    return pairs.PairSet(*(pa.Table.from_pylist(rows, schema) for rows, schema in schemas))


def test_a_caption_was_seen_where_train_has_one_of_equal_normalised_form_that_fits() -> None:
    train = make_set("驴。", "字母Ｑ", "草莓。", label=0)
    test = make_set("驴。", " 字母q", "草莓。", "骡子。", None)
    assert find_seen_texts(test, train, False).tolist() == [True, True, False, False, False]


def test_a_caption_in_the_other_script_was_seen_by_a_model_that_reads_both_as_one() -> None:
    train, test = make_set("蘋果樹下的貓", "草莓"), make_set("苹果树下的猫。", "葡萄")
    assert find_seen_texts(test, train, False).tolist() == [False, False]
    assert find_seen_texts(test, train, True).tolist() == [True, False]


def test_what_was_seen_is_told_in_words() -> None:
    values = {"t2i_queries": 139.0, "i2t_queries": 139.0}
    assert describe_seen(values) == ""
    told = describe_seen(values | {"t2i_seen_queries": 34.0, "i2t_seen_queries": 34.0})
    assert told.startswith("34 of 139 texts and 34 of 139 pictures have a caption that stands in train too")
    assert "No other is left" not in told
    every = describe_seen(values | {"t2i_seen_queries": 34.0, "i2t_seen_queries": 139.0})
    assert every.endswith("No other is left image → text: what is said there is no test.")
