"""torchvision beside a torch for which its compiled part was not built."""

import subprocess
import sys
import textwrap

from tests.support.checkout import ROOT


def test_torchvision_is_importable_wherever_its_compiled_part_is_not() -> None:
    program = """
    from tuwen.core.compat import declare_torchvision_ops
    assert declare_torchvision_ops() is declare_torchvision_ops()
    import torchvision, timm
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=False)
    assert done.returncode == 0
