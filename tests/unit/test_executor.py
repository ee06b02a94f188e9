import pytest

from tuwen import executor
from tuwen.errors import UserError


@pytest.mark.parametrize("asked", ["0", "many", "-1"])
def test_a_number_of_workers_that_is_none_is_named(monkeypatch, asked: str) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", asked)
    with pytest.raises(UserError, match=f"TUWEN_WORKERS: .* got '{asked}'"):
        executor.make_executor()
