"""What clients send is one query, whole and within bounds."""

import pytest
from pydantic import ValidationError

from tuwen.service.index.store import ItemFilter
from tuwen.service.messages import EmbedBody, FilterBody, SearchBody, describe_body


def test_a_filter_is_the_same_whatever_the_order_of_its_values() -> None:
    one = FilterBody(source=["网图", "art", "art"], width_px=[0, 640]).to_filter()
    assert one == FilterBody(source=["art", "网图"], width_px=[0, 640]).to_filter()
    assert one == ItemFilter((("source", ("art", "网图")),), (("width_px", 0, 640),))
    assert hash(one) is not None
    assert SearchBody(text="海边的日落").filter.to_filter() == ItemFilter()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one of text, image, image_id, text_id, text_vector and image_vector is expected, got none"),
        ({"text": "猫", "image_id": "1"}, "got text, image_id"),
        ({"less": ["1"]}, "is expected, got none"),
        ({"text": "猫", "less": ["1"] * 21}, "at most 20 items"),
        ({"text": "猫", "more": ["1", "2"], "less": ["2"]}, "share an image_id"),
        ({"text": "猫", "more": "1"}, "valid list"),
        ({"text": "  \n"}, "is empty; write what to look for"),
        ({"text": "\ud83d"}, "half of a surrogate pair"),
        ({"text": "猫", "k": 0}, "greater than or equal to 1"),
        ({"text": "猫", "k": "5"}, "valid integer"),
        ({"text": "猫", "top": 5}, "Extra inputs"),
        ({"text": "猫", "filter": {"width_px": [5, 4]}}, "must not be above the second"),
        ({"text": "猫", "filter": {"width_px": [0, 2**31]}}, "less than or equal to"),
        ({"text": "猫", "filter": {"source": []}}, "at least 1 item"),
        ({"text": "猫", "filter": {"source": [""]}}, "at least 1 character"),
        ({"text": "猫", "filter": {"source": ["图" * 1025]}}, "at most 1024 characters"),
    ],
)
def test_what_does_not_fit_is_told(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchBody.model_validate(values)


def test_texts_or_pictures_are_embedded() -> None:
    assert EmbedBody(texts=["一只橘猫"]).images is None
    for values in ({}, {"texts": ["猫"], "images": ["aaaa"]}, {"texts": []}):
        with pytest.raises(ValidationError):
            EmbedBody.model_validate(values)


def test_the_schema_of_a_body_stands_alone() -> None:
    described = describe_body(SearchBody, with_upload=True)["requestBody"]["content"]
    assert "$ref" not in str(described)
    schema = described["application/json"]["schema"]
    assert set(schema["properties"]["filter"]["properties"]) >= {"source", "split", "caption_chars"}
    assert described["multipart/form-data"]["schema"]["properties"]["image"]["format"] == "binary"
