"""The tool behind the rule on `deps` and `params`, on a small made-up tree."""

from pathlib import Path

import pytest

from tests.repo import closure

TREE = {
    "stages/__init__.py": '"""Stages."""\n',
    "stages/finetune.py": """
        from pathlib import Path
        from tuwen import models, track
        from tuwen.params import load
        def main():
            params, out = load(), Path("models")
            with track.run(params.report):
                models.make(out, params, seed=params.validate_)
        """,
    "stages/embed.py": """
        from tuwen.params import load
        def main():
            from tuwen.sources import read
            read(load().embed)
        """,
    "stages/report.py": "from tuwen.report import write\n",
    "tuwen/__init__.py": '"""图文"""\n__version__ = "0.1.0"\n',
    "tuwen/models.py": """
        from typing import TYPE_CHECKING
        from tuwen.text import normalise
        if TYPE_CHECKING:
            from tuwen.recall import Figures
        def make(out, params, seed):
            fit(params.finetune, shape(params))
        def shape(settings):
            import tuwen.loss
            return settings.image
        def unrelated(params):
            return params.augment
        """,
    "tuwen/text.py": "def normalise(caption): ...\n",
    "tuwen/loss.py": "import torch\n",
    "tuwen/recall.py": "Figures = dict\n",
    "tuwen/track.py": "from tuwen.recall import Figures\n",
    "tuwen/params.py": "def load(): ...\n",
    "tuwen/report.py": "from tuwen import recall\n",
    "tuwen/sources/__init__.py": "from tuwen.sources import sample\ndef read(): ...\n",
    "tuwen/sources/sample.py": "import zipfile\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("\n        ", "\n"), encoding="utf-8")
    return tmp_path


def test_closure_follows_imports_inside_functions_but_not_those_of_type_checkers(tree: Path) -> None:
    found = closure.closure(tree, "stages/finetune.py")
    assert found == {"stages/finetune.py", "tuwen/models.py", "tuwen/text.py", "tuwen/loss.py"}


def test_closure_takes_a_package_by_its_init(tree: Path) -> None:
    found = closure.closure(tree, "stages/embed.py")
    assert found == {"stages/embed.py", "tuwen/sources/__init__.py", "tuwen/sources/sample.py"}


def test_only_the_report_depends_on_the_report(tree: Path) -> None:
    assert closure.closure(tree, "stages/report.py") == {"stages/report.py", "tuwen/report.py", "tuwen/recall.py"}


def test_groups_are_followed_into_functions_that_get_all_params(tree: Path) -> None:
    assert closure.param_groups(tree, "stages/finetune.py") == {"report", "validate", "finetune", "image"}
    assert closure.param_groups(tree, "stages/embed.py") == {"embed"}


def test_params_given_to_another_package_are_an_error(tree: Path) -> None:
    (tree / "stages/embed.py").write_text("import json\nfrom tuwen.params import load\njson.dumps(load())\n")
    with pytest.raises(AssertionError, match=r"json\.dumps is given all params"):
        closure.param_groups(tree, "stages/embed.py")
