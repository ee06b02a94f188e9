"""Preprocessors that show a model other pixels than ours are refused, not read as ours."""

from pathlib import Path
from typing import Any

import pytest

from tuwen.core.errors import UserError
from tuwen.model.weights.pixel_config import check_pixel_steps

PATH = Path("model/preprocessor_config.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"do_rescale": False}, "do_rescale: expected True, got False"),
        ({"do_normalize": False}, "do_normalize: expected True, got False"),
        ({"rescale_factor": 1 / 127.5}, r"rescale_factor: expected 0\.0039.*, got 0\.0078"),
        ({"rescale_factor": "1/255"}, "rescale_factor: expected .*, got '1/255'"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order: expected False, got True"),
    ],
)
def test_another_step_is_named_with_its_file(content: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {told}.*fetch it again"):
        check_pixel_steps(content, PATH, "fetch it again")


@pytest.mark.parametrize(
    "content",
    [{}, {"do_rescale": None, "rescale_factor": 0.00392156862745098}, {"do_resize": True, "do_normalize": 1}],
)
def test_ours_pass(content: dict[str, Any]) -> None:
    check_pixel_steps(content, PATH, "fetch it again")
