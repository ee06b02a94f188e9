"""An out and its copy in DVC's cache are one file (`cache.type`, .dvc/config): who writes to one writes to both.

They are read-only, and DVC removes a stage's outs before it runs the stage. That leaves a stage run by hand, and a
user who is root or whose editor insists; DVC trusts what is read-only, and would take the spoilt file for good.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError

_STAGE = "DVC_STAGE"  # set by DVC for what it runs


def unprotect_outs(command: str) -> None:
    """Make the outs of the stage whose `cmd` in dvc.yaml is `command` files of their own, as `dvc unprotect` does.

    A process that DVC started finds no outs, and nothing is done; likewise outside a DVC repository.
    """
    if _STAGE in os.environ or not (Path(".dvc").is_dir() and Path("dvc.yaml").is_file()):
        return
    from dvc.repo import Repo

    with Repo() as repo:
        for stage in repo.index.stages:
            if stage.cmd == command:
                os.environ[_STAGE] = stage.addressing  # its child processes find it done
                stage.unprotect_outs()


def refuse_edited_outs(folder: Path) -> None:
    """Take objects that were written to through an out in `folder` away from DVC's cache.

    Raises UserError that names the files; a second call finds nothing.
    """
    if not (folder / "dvc.lock").is_file():
        return
    from dvc.repo import Repo

    with Repo(folder) as repo:
        edited = [pair for out in repo.index.outs for pair in _find_edited(repo, out)]
    for _, cached in edited:
        Path(cached).unlink(missing_ok=True)  # two outs of one content share it
    if edited:
        names = [os.path.relpath(path) for path, _ in edited]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"{', '.join(names[:3])}{more}: edited in place, and DVC's cached copy with it, which is removed now; "
            "to keep the edit, copy the file elsewhere. `dvc pull --force` brings back what was pushed; the "
            "next run makes the rest anew"
        )


def _find_edited(repo: Any, out: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, cached object) of each file of an out that is linked and is not what its hash says."""
    from dvc_data.hashfile.hash import hash_file
    from dvc_data.hashfile.tree import Tree

    if not (out.use_cache and out.is_in_repo and out.hash_info):
        return
    recorded = out.get_obj()
    if isinstance(recorded, Tree):
        files = [(out.fs.join(out.fs_path, *key), oid.value) for key, _, oid in recorded]
    else:
        files = [(out.fs_path, out.hash_info.value)]
    for path, md5 in files:
        cached = out.cache.oid_to_path(md5)
        if _is_linked(path, cached):
            _, actual = hash_file(path, out.fs, out.hash_name, repo.state)  # read only if its time or size changed
            if actual.value != md5:
                yield path, cached


def _is_linked(path: str, cached: str) -> bool:
    try:
        here, there = os.stat(path), os.stat(cached)
    except OSError:
        return False
    return stat.S_ISREG(here.st_mode) and os.path.samestat(here, there)
