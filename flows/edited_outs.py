"""Outs that somebody edited in place, and DVC's cached copy with them.    python -m flows.edited_outs

An out is a link into the cache and read-only (tuwen/core/linked_outs.py); that leaves a user who is root, or whose
editor insists. DVC trusts what is read-only, and would take the spoilt file for good.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError, report_user_errors


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


@report_user_errors
def main() -> None:
    """Look at the outs of this folder."""
    refuse_edited_outs(Path("."))


if __name__ == "__main__":
    main()
