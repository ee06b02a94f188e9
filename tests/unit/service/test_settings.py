"""Settings come from the environment, and what would be unsafe does not start."""

from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.service.settings import is_loopback, read_search_settings

TOKEN = "a" * 24


def test_variables_of_the_service_are_read_and_others_left_alone() -> None:
    settings = read_search_settings(
        {"TUWEN_SEARCH_PORT": "9000", "TUWEN_SEARCH_INDEX": "别处/index", "TUWEN_SEARCH_TOKEN": "", "PORT": "1"}
    )
    assert (settings.port, settings.index, settings.token) == (9000, Path("别处/index"), "")
    assert read_search_settings({"TUWEN_SEARCH_LOG_QUERIES": "1"}).log_queries


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "eighty", "TUWEN_SEARCH_PORT: input should be a valid integer"),
        ("BATCH_SIZE", "0", "TUWEN_SEARCH_BATCH_SIZE: input should be greater than or equal to 1"),
        ("TOKENS", "x", "TUWEN_SEARCH_TOKENS is no setting; there are TUWEN_SEARCH_HOST, "),
        ("TOKEN", "secret", "TUWEN_SEARCH_TOKEN: 16 ASCII characters or more"),
    ],
)
def test_a_value_that_does_not_fit_is_named_and_no_secret_told(name: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_search_settings({f"TUWEN_SEARCH_{name}": value})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "search.example.org"])
def test_whoever_can_be_reached_from_elsewhere_needs_a_token(host: str) -> None:
    with pytest.raises(UserError, match=r"TUWEN_SEARCH_HOST: .* so a token is needed"):
        read_search_settings({"TUWEN_SEARCH_HOST": host})
    assert read_search_settings({"TUWEN_SEARCH_HOST": host, "TUWEN_SEARCH_TOKEN": TOKEN}).host == host
    assert TOKEN not in repr(read_search_settings({"TUWEN_SEARCH_TOKEN": TOKEN}))


def test_loopback_is_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org")))
