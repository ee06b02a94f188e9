"""The repository's own files, and what its modules import."""

import functools
import subprocess
from pathlib import Path

from tests.repo import closure
from tests.support.checkout import ROOT


def modules(*packages: str) -> list[str]:
    """Return the paths of all modules below `packages`, relative to the repository."""
    return [str(path.relative_to(ROOT)) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(path: str) -> set[str]:
    """Return the top-level packages that the module at `path` imports."""
    return {module.partition(".")[0] for module, _ in closure.imports(ROOT / path)}


@functools.cache
def imported_files(path: str) -> set[str]:
    """Return the files of this repository that the module at `path` imports itself."""
    sources = (closure.source(ROOT, module, name) for module, name in closure.imports(ROOT / path))
    return {source for source in sources if source}


def tracked_files() -> list[Path]:
    """Return what git tracks or would add: paths relative to the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")
