"""Faults of other packages: torchvision without its compiled part, matplotlib in a notebook's shell."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.checkout import ROOT


def test_torchvision_is_importable_wherever_its_compiled_part_is_not() -> None:
    program = """
    from tuwen.core.compat import declare_torchvision_ops
    assert declare_torchvision_ops() is declare_torchvision_ops()
    import torchvision, timm
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_a_chart_is_the_same_under_a_notebooks_backend_and_a_users_own_style(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nlines.linewidth: 9\nfont.family: monospace\n")
    code = "from tuwen.report.html.page import draw_svg\nprint(draw_svg('x', lambda axes: axes.plot([1, 2]), {}))"
    shells = {}, {"MPLBACKEND": "module://no_such_backend", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    drawn = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | shell,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for shell in shells
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("<svg")
