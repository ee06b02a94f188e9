"""What docker/Dockerfile does to the packages of the image."""

import re

from tests.support.checkout import ROOT


def list_removing_commands() -> str:
    """Return the commands, for the folder of the packages, that remove what no program needs at run time."""
    text = (ROOT / "docker/Dockerfile").read_text()
    (commands,) = re.findall(
        r"&& cd /opt/venv/lib/python3\.11/site-packages \\\n  && ((?:.*\\\n)*.*)$", text, re.MULTILINE
    )
    return commands
