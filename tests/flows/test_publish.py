"""Publishing to a real registry and a real service: taken, refused and undone, or found by the service itself."""

import shutil
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from flows.publish import ask_to_reload, keep_index, locate_service, require_published, swap_model
from tests.support import registry_project
from tests.support.checkout import ROOT
from tests.support.search_process import SearchService, serving_searches
from tests.support.search_project import INDEX, build_index, write_calibrations
from tests.support.serve import wait_until
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.tracking import published

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow's, about sqlalchemy
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TOKEN = "geheim, und lang genug"
BANK = INDEX.model_copy(update={"sets": ["bank"]})


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose fine-tuned model is still the baseline; the better one lies in `better`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUWEN_SEARCH_TOKEN", TOKEN)
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
    registry_project.build(tmp_path)
    for name in ("models", "embeddings"):
        (tmp_path / name / "finetuned").rename(tmp_path / f"better-{name}")
        shutil.copytree(tmp_path / name / "baseline", tmp_path / name / "finetuned")
    write_calibrations(tmp_path)
    build_index(tmp_path, BANK)
    return tmp_path


def train(root: Path) -> None:
    """Put the better model in the place of the fine-tuned one."""
    for name in ("models", "embeddings"):
        shutil.rmtree(root / name / "finetuned")
        shutil.copytree(root / f"better-{name}", root / name / "finetuned")


def read_version(service: SearchService) -> str:
    about = httpx.get(f"{service.address}/about", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return str(about["model"]["version"])


def test_a_model_goes_into_service_or_nothing_changes(project: Path) -> None:
    unreachable = "http://127.0.0.1:9"
    with keep_index(project) as index, pytest.raises(UserError, match="nothing answers at http"):
        swap_model(project, unreachable, index)
    assert published.get_champion() is None
    published.set_champion("1")
    settings = {"model": "models:/tuwen@champion", "poll_seconds": 0}
    with serving_searches(project, **settings) as service:
        assert read_version(service) == "1"
        assert "it is the champion already" in publish(project, service)

        train(project)
        before = manifest.hash_path(project / "index")
        with pytest.raises(UserError, match=r"answers 409: the model in service answers on: .* another model"):
            publish(project, service)  # its index was not made
        assert published.get_champion() == read_version(service) == "1"
        assert manifest.hash_path(project / "index") == before

        with keep_index(project) as index:
            build_index(project, BANK)
            told = swap_model(project, service.address, index)
        assert told.startswith("version 2 is in service: R@5 +")
        assert published.get_champion() == read_version(service) == "2"
        assert not (project / ".cache/publish/index").exists()


def test_the_index_is_put_back_where_what_follows_fails_or_is_cancelled(tmp_path: Path) -> None:
    place = tmp_path / "index" / "manifest.json"
    place.parent.mkdir()
    place.write_text("before")

    def fail(fault: BaseException) -> None:
        shutil.rmtree(place.parent)
        place.parent.mkdir()
        raise fault

    for fault in (UserError("index: failed"), KeyboardInterrupt()):
        with pytest.raises(type(fault)), keep_index(tmp_path):
            fail(fault)
        assert place.read_text() == "before"
        assert not (tmp_path / ".cache/publish/index").exists()


def test_the_champion_is_put_back_where_the_swap_is_cancelled(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(service: str, token: str) -> None:
        assert published.get_champion() == "1"
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.publish.ask_to_reload", cancel)
    with pytest.raises(KeyboardInterrupt), keep_index(project) as index:
        swap_model(project, "http://127.0.0.1:9", index)
    assert published.get_champion() is None


def test_a_service_that_took_something_else_is_told() -> None:
    expected = {"model": "sha256:a1", "index": "sha256:b2"}
    require_published(expected, expected)
    with pytest.raises(UserError, match="it took another index, sha256:c3, and sha256:b2 was published"):
        require_published(expected | {"index": "sha256:c3"}, expected)


def publish(project: Path, service: SearchService) -> str:
    """Publish the model with the index that stands."""
    with keep_index(project) as index:
        return swap_model(project, service.address, index)


def test_the_service_takes_a_new_champion_by_itself_once_its_index_is_there(project: Path) -> None:
    with keep_index(project) as index, pytest.raises(UserError):
        swap_model(project, "http://127.0.0.1:9", index)
    published.set_champion("1")
    with serving_searches(project, model="models:/tuwen@champion", poll_seconds=0.2) as service:
        train(project)
        with keep_index(project) as index, pytest.raises(UserError):
            swap_model(project, "http://127.0.0.1:9", index)
        published.set_champion("2")
        mismatch = "an index of another model"
        wait_until(lambda: mismatch in service.read_log(), 60, "the champion without an index is refused")
        assert read_version(service) == "1"
        build_index(project, BANK)
        wait_until(lambda: read_version(service) == "2", 60, "the new champion answers")
    assert service.read_log().count(mismatch) == 1  # a pair is tried once


def test_the_service_is_the_one_given_or_the_workers_or_that_of_make_search() -> None:
    deployments = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")["deployments"]
    (service,) = (one["parameters"]["service"] for one in deployments if one["name"] == "publish")
    worker = {"TUWEN_PUBLISH_SERVICE": "http://search:8080"}
    assert locate_service(service, worker) == "http://search:8080"
    assert locate_service(service, {}) == "http://127.0.0.1:8080"
    assert locate_service("https://search.example.org", worker) == "https://search.example.org"


def test_who_lacks_the_token_reloads_nothing(project: Path) -> None:
    with serving_searches(project) as service, pytest.raises(UserError, match="answers 401: a token is needed"):
        ask_to_reload(service.address, "falsch")
