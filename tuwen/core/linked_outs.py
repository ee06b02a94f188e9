"""An out and its copy in DVC's cache are one file (`cache.type`, .dvc/config): who writes to one writes to both.

They are read-only, and DVC removes a stage's outs before it runs the stage; a stage run by hand finds them there.
"""

import os
import shutil
from pathlib import Path

_LOCK = Path("dvc.lock")
_STAGE = "DVC_STAGE"  # set by DVC for what it runs
_WRITABLE = 0o644


def copy_linked_outs(command: str) -> None:
    """Make the outs of the stage whose `cmd` in dvc.lock is `command` files of their own, as `dvc unprotect` does.

    A process that DVC started finds no outs, and nothing is done; likewise where no stage was recorded.
    """
    if _STAGE in os.environ or not _LOCK.is_file():
        return
    from ruamel.yaml import YAML

    stages = (YAML(typ="safe", pure=True).load(_LOCK) or {}).get("stages", {})
    for name, stage in stages.items():
        if stage["cmd"] == command:
            os.environ[_STAGE] = name  # its child processes find it done
            for out in stage.get("outs", []):
                for path in _list_files(Path(out["path"])):
                    _copy_over(path)


def _list_files(out: Path) -> list[Path]:
    return [path for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()]


def _copy_over(path: Path) -> None:
    """Replace a link by a copy of what it leads to, and let its owner write."""
    if path.is_symlink() or path.stat().st_nlink > 1:
        copy = path.with_name(f"{path.name}.unlinked")
        shutil.copyfile(path, copy)
        copy.replace(path)
    path.chmod(_WRITABLE)
