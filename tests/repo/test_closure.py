"""The tool that finds what `deps` and `params` must list, on a small made-up tree."""

from pathlib import Path

import pytest

from tests.repo import closure

TREE = {
    "stages/__init__.py": '"""Stages."""\n',
    "stages/finetune.py": """
        from pathlib import Path
        from tuwen.tracking import runs
        from tuwen.training import models
        from tuwen.core.params import load_params
        def main():
            params, out = load_params(), Path("models")
            with runs.run(params.report):
                models.make(out, params, seed=params.validate_)
        """,
    "stages/embed.py": """
        from tuwen.core.params import load_params
        def main():
            from tuwen.data.sources import read
            read(load_params().embed)
        """,
    "stages/report.py": "from tuwen.report.report import write\n",
    "tuwen/__init__.py": '"""图文"""\n__version__ = "0.1.0"\n',
    "tuwen/training/models.py": """
        from typing import TYPE_CHECKING
        from tuwen.data.text import normalise
        if TYPE_CHECKING:
            from tuwen.retrieval.recall import Figures
        def make(out, params, seed):
            fit(params.finetune, shape(params))
        def shape(settings):
            import tuwen.training.loss
            return settings.image
        def unrelated(params):
            return params.augment
        """,
    "tuwen/data/text.py": "def normalise(caption): ...\n",
    "tuwen/training/loss.py": "import torch\n",
    "tuwen/retrieval/recall.py": "Figures = dict\n",
    "tuwen/tracking/runs.py": "from tuwen.retrieval.recall import Figures\n",
    "tuwen/core/params/__init__.py": "def load_params(): ...\n",
    "tuwen/report/report.py": "from tuwen.retrieval import recall\n",
    "tuwen/data/sources/__init__.py": "from tuwen.data.sources import sample\ndef read(): ...\n",
    "tuwen/data/sources/sample.py": "import zipfile\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("\n        ", "\n"), encoding="utf-8")
    return tmp_path


def test_closure_follows_imports_inside_functions_but_not_those_of_type_checkers(tree: Path) -> None:
    files = closure.closure(tree, "stages/finetune.py")
    assert files == {
        "stages/finetune.py",
        "tuwen/training/models.py",
        "tuwen/data/text.py",
        "tuwen/training/loss.py",
    }


def test_closure_takes_a_package_by_its_init(tree: Path) -> None:
    files = closure.closure(tree, "stages/embed.py")
    assert files == {"stages/embed.py", "tuwen/data/sources/__init__.py", "tuwen/data/sources/sample.py"}


def test_what_stands_in_core_and_tracking_decides_nothing(tree: Path) -> None:
    assert closure.closure(tree, "stages/report.py") == {
        "stages/report.py",
        "tuwen/report/report.py",
        "tuwen/retrieval/recall.py",
    }
    assert not any("tracking" in path for path in closure.closure(tree, "stages/finetune.py"))


def test_groups_are_followed_into_functions_that_get_all_params(tree: Path) -> None:
    assert closure.param_groups(tree, "stages/finetune.py") == {"report", "validate", "finetune", "image"}
    assert closure.param_groups(tree, "stages/embed.py") == {"embed"}


def test_params_given_to_another_package_are_an_error(tree: Path) -> None:
    (tree / "stages/embed.py").write_text(
        "import json\nfrom tuwen.core.params import load_params\njson.dumps(load_params())\n"
    )
    with pytest.raises(AssertionError, match=r"json\.dumps is given all params"):
        closure.param_groups(tree, "stages/embed.py")
