"""Find what a stage's script imports in this repository and the params it reads.    python -m tests.repo.closure

Prints, for every stage script, the packages that belong under `deps` and the groups that belong under `params` in
dvc.yaml. By syntax alone: imports inside functions count, those under `if TYPE_CHECKING:` do not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("tuwen", "stages", "flows", "tests")
# What cannot change an out. Nothing is followed through these: what they import decides nothing either.
WITHOUT_EFFECT = ("tuwen/core/", "tuwen/tracking/")


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, without the blocks that only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    return tree


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name) for every import in the file; name is None for `import module`."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def closure(root: Path, script: str) -> set[str]:
    """Return the files under `root` that `script` imports, directly or not, and itself; relative to `root`."""
    files, waiting = set[str](), [script]
    while waiting:
        path = waiting.pop()
        if path in files or path.startswith(WITHOUT_EFFECT):
            continue
        files.add(path)
        waiting += (file for module, name in imports(root / path) if (file := source(root, module, name)))
    return {path for path in files if not _only_describes(parse(root / path))}


def _only_describes(tree: ast.Module) -> bool:
    """Whether a module is a docstring and a version alone, as most `__init__.py`: that decides nothing."""
    texts = [node for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    version = [node for node in tree.body if ast.unparse(node).startswith("__version__ = ")]
    return len(texts) + len(version) == len(tree.body)


def source(root: Path, module: str, name: str | None) -> str | None:
    """Return the file that `from module import name` reads in this repository; None for other packages."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    folder = Path(*module.split("."))
    candidates = [folder / f"{name}.py", folder / f"{name}" / "__init__.py"] if name else []
    candidates += [folder.with_suffix(".py"), folder / "__init__.py"]
    return next((str(path) for path in candidates if (root / path).is_file()), None)


def param_groups(root: Path, script: str) -> set[str]:
    """Return the groups of params.yaml that the script reads, also in functions that get all params from it."""
    return _groups(root, Path(script), parse(root / script), set())


def _groups(root: Path, path: Path, tree: ast.AST, whole: set[str]) -> set[str]:
    """Return the groups read in `tree`, part of the file `path`; whole: the names that hold all params there."""
    whole = whole | {name for node in ast.walk(tree) if isinstance(node, ast.Assign) for name in _loaded(node)}
    groups = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (_is_whole(node.value, whole)):
            groups.add(node.attr.rstrip("_"))
        elif isinstance(node, ast.Call):
            places = [index for index, value in enumerate(node.args) if _is_whole(value, whole)]
            named = [word.arg for word in node.keywords if word.arg and _is_whole(word.value, whole)]
            if places or named:
                groups |= _groups_of_callee(root, path, node.func, places, named)
    return groups


def _loaded(node: ast.Assign) -> Iterator[str]:
    """Yield the names that `params = load_params()` and `params, out = load_params(), …` bind to all params."""
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        yield from (name.id for name, value in pairs if isinstance(name, ast.Name) and _is_whole(value, set()))


def _is_whole(node: ast.expr, whole: set[str]) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("load_params", "params.load_params")
    return isinstance(node, ast.Name) and node.id in whole


def _groups_of_callee(root: Path, path: Path, callee: ast.expr, places: list[int], named: list[str]) -> set[str]:
    place, name = _find_function(root, path, callee)
    functions = (node for node in parse(root / place).body if isinstance(node, ast.FunctionDef))
    function = next(node for node in functions if node.name == name)
    arguments = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]]
    return _groups(root, place, function, {arguments[index] for index in places} | set(named))


def _find_function(root: Path, path: Path, callee: ast.expr) -> tuple[Path, str]:
    """Return the file and the name of a function called as `name(…)` or `module.name(…)`."""
    imported = {name or module: (module, name) for module, name in imports(root / path)}
    if isinstance(callee, ast.Attribute):
        module, name = imported[ast.unparse(callee.value)]
        file, function = source(root, module, name), callee.attr
    else:
        assert isinstance(callee, ast.Name), f"{path}: {ast.unparse(callee)} cannot be followed"
        function = callee.id
        file = source(root, *imported[function]) if function in imported else str(path)
    assert file, f"{path}: {ast.unparse(callee)} is given all params, which makes its groups unknown"
    return Path(file), function


def main() -> None:
    """Print what dvc.yaml should list."""
    for script in sorted(Path("stages").glob("[!_]*.py")):
        print(f"{script.stem}:\n  params: [{', '.join(sorted(param_groups(Path(), str(script))))}]\n  deps:")
        packages = {str(Path(path).parent) for path in closure(Path(), str(script)) if path != str(script)}
        print("\n".join(f"    - {path}" for path in [str(script), *sorted(packages)]))


if __name__ == "__main__":
    main()
