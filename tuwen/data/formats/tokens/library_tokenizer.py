"""The tokenizer of a published model, by its library's own files, kept in `tokenizer/` of a model folder.

Case, marks, special tokens and the side of the padding are then what the weights were trained with.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

TOKENIZER_FOLDER = "tokenizer"  # of a model folder


class TokenizerFiles(NamedTuple):
    """The files of a tokenizer: name -> content."""

    contents: dict[str, bytes]


def find_cleaner(name: str | None) -> Callable[[str], str] | None:
    """Return what a published model's captions are cleaned by, ahead of its tokenizer.

    name: `str.lower`, or one of open_clip's cleaners: lower, whitespace, canonicalize.
    """
    if name is None or name == "str.lower":
        return str.lower if name else None
    from open_clip.tokenizer import get_clean_fn

    cleaner: Callable[[str], str] = get_clean_fn(name)
    return cleaner


def collect_tokenizer_files(tokenizer: Any) -> TokenizerFiles:
    """Return what `tokenizer`, one of transformers, writes of itself."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return read_tokenizer_files(Path(folder))


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Return the files in a folder that holds a tokenizer alone."""
    return TokenizerFiles({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def write_tokenizer_files(files: TokenizerFiles, folder: Path) -> None:
    """Write the files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.contents.items():
        (folder / name).write_bytes(content)


def load_library_tokenizer(source: Path | TokenizerFiles) -> Any:
    """Return the tokenizer of transformers that a folder or its files hold; no code of the folder is run.

    Raises OSError, ValueError or another of the library's errors where there is none.
    """
    from transformers import AutoTokenizer

    if isinstance(source, Path):
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    with TemporaryDirectory() as folder:
        write_tokenizer_files(source, Path(folder))
        return load_library_tokenizer(Path(folder))
