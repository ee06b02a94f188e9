"""DVC's settings of this checkout for another folder with the same code: cache, link type, remotes.

DVC itself is asked for them, since they may stand in four files, and paths in those are relative to the file.
"""

import os
import subprocess
import sys
from pathlib import Path

from tuwen.core.errors import UserError, hide_credentials

OWN_LEVELS = (".dvc/config", ".dvc/config.local")  # the other two, a user's and a machine's, hold everywhere
CACHE = "cache.dir"


def locate_dvc_cache() -> Path:
    """Return the folder of this checkout's DVC cache. Raises UserError where DVC cannot read its settings."""
    settings = {key: value for _, key, value in _read(Path("."))}
    return Path(settings.get(CACHE, ".dvc/cache")).absolute()


def copy_dvc_settings(folder: Path) -> dict[str, str]:
    """Give `folder` this checkout's DVC settings, in its .dvc/config.local, and return all that hold there.

    Raises UserError where DVC cannot read either, or reads something else there than here.
    """
    here = _read(Path("."))
    settings = {key: value for origin, key, value in here if origin in OWN_LEVELS}
    effective = {key: value for _, key, value in here}
    cache = {CACHE: effective.get(CACHE, str(Path(".dvc/cache").absolute()))}
    _write(folder / ".dvc/config.local", settings | cache)
    there = {key: value for _, key, value in _read(folder)}
    for key, value in (effective | cache).items():
        if there.get(key) != value:
            raise UserError(
                f"{folder}: DVC would take {key} = {hide_credentials(there.get(key, 'nothing'))}, here it takes "
                f"{hide_credentials(value)}; name a path without quotes, % and line breaks in .dvc/config.local"
            )
    return there


def _read(folder: Path) -> list[tuple[str, str, str]]:
    """Return (file, key, value) of every setting, the later the stronger, with absolute paths."""
    command = [sys.executable, "-m", "dvc", "config", "--list", "--show-origin"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
    )
    if done.returncode != 0:
        raise UserError(f"dvc config, in {folder.absolute()}: {done.stderr.strip()}")
    lines = [line.partition("\t") for line in done.stdout.splitlines() if "\t" in line]
    settings = [(origin, *line.partition("=")) for origin, _, line in lines]
    return [(origin, key, value) for origin, key, _, value in settings]


def _write(path: Path, settings: dict[str, str]) -> None:
    """Write DVC's file; paths inside this checkout become relative, so that its name does not matter."""
    from configobj import ConfigObj

    sections: dict[str, dict[str, str]] = {}
    for key, value in settings.items():
        section, _, option = key.partition(".")
        if "." in option:  # remote.<name>.url
            name, _, option = option.rpartition(".")
            section = f'{section} "{name}"'
        if os.path.isabs(value) and Path(value).is_relative_to(Path.cwd()):
            value = os.path.relpath(value, path.parent)
        sections.setdefault(section, {})[option] = value
    config = ConfigObj(sections, encoding="utf-8", interpolation=False)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)  # a remote's password may stand in it
        config.write(file)
