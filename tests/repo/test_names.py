"""Public names: few are defined in more than one module, and functions of the library begin with a verb."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.closure import parse
from tests.repo.files import modules
from tests.support.checkout import ROOT

# Defined by more than one module: the code in the keys of unfinished work, and the contest's files in two rooms.
SHARED = {"CONTEST_FILES", "DECIDING_CODE"}
# Folder -> what each of its modules must define, so that one can stand for another: one name, many modules.
PROTOCOLS = {"tuwen/data/sources": {"read"}, "tuwen/model/weights": {"read_weights", "find_counterpart"}}
NOT_VERBS = {"top_k", "top_k_both"}  # as numpy, torch and faiss call it
# The first words of public functions. One that is no longer in use must go: see the last test.
VERBS = """
answer assert assign augment average bootstrap bound broadcast build check choose clamp classify clip collect
combine compare compile compose compute connect convert copy count create cut deal declare decode describe
digest draw embed encode evaluate examine exit explain export extend fetch fill find fit flatten follow format
freeze gather get group has hash hide import infer ingest is join judge keep label limit list load locate lock log
make map match measure merge mix move nest normalise number open pack paraphrase parse pool predict prepare
project propagate put rank read refuse register remove render reorder replace report require rerank resize round
run save say score select set simplify split start step stop stream swap sync tabulate tokenize track train
translate turn use validate vary watch write
"""


def public_names(path: str) -> Iterator[str]:
    """Functions, classes and constants that a module defines at its top level, without the commands of the CLI."""
    for node in parse(ROOT / path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [] if path.startswith("tuwen/cli/") and node.decorator_list else [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = (name for target in targets for name in ast.walk(target))
            names = [name.id for name in bound if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_") and name != "main")


def public_functions(path: str) -> list[str]:
    functions = {node.name for node in parse(ROOT / path).body if isinstance(node, ast.FunctionDef)}
    return [name for name in public_names(path) if name in functions]


def defined_in(path: str, name: str) -> str:
    """The module that defines a name; its folder where the name is that of a protocol."""
    folder = str(Path(path).parent)
    return folder if name in PROTOCOLS.get(folder, set()) else path


def test_few_public_names_are_defined_by_more_than_one_module() -> None:
    places = defaultdict[str, set[str]](set)
    for path in modules("tuwen", "stages", "flows"):
        for name in public_names(path):
            places[name].add(defined_in(path, name))
    shared = {name: paths for name, paths in places.items() if len(paths) > 1}
    table = "\n".join(f"{name}: {', '.join(sorted(paths))}" for name, paths in sorted(shared.items()))
    assert set(shared) == SHARED, f"{len(shared)} names are defined by more than one module:\n{table}"


@pytest.mark.parametrize("folder", PROTOCOLS)
def test_a_protocol_is_what_several_modules_of_a_folder_define(folder: str) -> None:
    for name in PROTOCOLS[folder]:
        assert len([path for path in modules(folder) if name in public_names(path)]) > 1, name


@pytest.mark.parametrize("path", modules("tuwen"))
def test_a_public_function_begins_with_a_verb(path: str) -> None:
    names = set(public_functions(path)) - NOT_VERBS - PROTOCOLS.get(str(Path(path).parent), set())
    assert {name for name in names if name.partition("_")[0] not in VERBS.split()} == set()


def test_every_verb_and_exception_is_in_use() -> None:
    functions = {name for path in modules("tuwen") for name in public_functions(path)}
    assert set(VERBS.split()) - {name.partition("_")[0] for name in functions} == set()
    assert NOT_VERBS - functions == set()
