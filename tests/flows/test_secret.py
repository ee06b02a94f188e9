"""The password of a checkout's Prefect server: who gets it, who may read it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import secret
from tests.support.checkout import ROOT
from tuwen.core.errors import UserError

HERE, ELSEWHERE = "http://127.0.0.1:4200/api", "https://prefect.example.org/api"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"PREFECT_HOME": str(tmp_path / "prefect")}


def test_it_is_random_made_once_and_its_owners_alone(home: dict[str, str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        (password,) = set(threads.map(secret.read_or_make, [home] * 40))
    assert len(password) >= 64
    assert password != secret.read_or_make({"PREFECT_HOME": str(tmp_path / "other")})
    path = secret.locate(home)
    assert path.read_text() == password
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["auth"]


@pytest.mark.parametrize(("mode", "content", "message"), [(0o644, "x", "other users"), (0o600, "", "is empty")])
def test_one_that_others_can_read_or_that_is_none_is_refused(
    mode: int, content: str, message: str, home: dict[str, str]
) -> None:
    path = secret.locate(home)
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(UserError, match=message):
        secret.read_or_make(home)


def test_a_flows_own_server_asks_for_it_and_lets_no_page_in(home: dict[str, str]) -> None:
    password = secret.read_or_make(home)
    added = secret.add_credentials(home)
    assert added == {
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none",
    }


def test_only_a_server_on_this_machine_is_told_it(home: dict[str, str]) -> None:
    assert secret.add_credentials(home | {"PREFECT_API_URL": HERE}) == {}  # none was made: it is no server of ours
    password = secret.read_or_make(home)
    assert secret.add_credentials(home | {"PREFECT_API_URL": HERE}) == {"PREFECT_API_AUTH_STRING": password}
    assert secret.add_credentials(home | {"PREFECT_API_URL": ELSEWHERE}) == {}
    own = {"PREFECT_API_AUTH_STRING": "theirs"}
    assert secret.add_credentials(home | own | {"PREFECT_API_URL": HERE}) == {}
    assert secret.guard_server(home | own, [HERE])["PREFECT_SERVER_API_AUTH_STRING"] == "theirs"


def test_the_password_of_a_checkout_lies_where_git_does_not_look() -> None:
    subprocess.run(["git", "check-ignore", "--quiet", ".prefect/auth"], cwd=ROOT, check=True)
