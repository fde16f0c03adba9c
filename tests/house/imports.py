"""Which module imports which, read from the source without running it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import statement's module, absolute, where it stands, and when it happens."""

    module: str
    path: Path
    line: int
    on_load: bool  # False inside a function, or under `if TYPE_CHECKING`

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def imports_of(path: Path, package_root: Path) -> Iterator[Import]:
    """Every import in the file at `path`, whose package `package_root` is the topmost folder of."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    here = path.relative_to(package_root.parent).with_suffix("").parts
    package = here[:-1]  # of a module and of an __init__ alike: the folder it stands in
    yield from _walk(tree.body, package, path, on_load=True)


def _walk(nodes: list[ast.stmt], package: tuple[str, ...], path: Path, on_load: bool) -> Iterator[Import]:
    for node in nodes:
        for module in _modules(node, package):
            yield Import(module, path, node.lineno, on_load)
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _walk(node.body, package, path, on_load=False)
            yield from _walk(node.orelse, package, path, on_load)
            continue
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for body in _bodies(node):
            yield from _walk(body, package, path, on_load and not later)


def _modules(node: ast.stmt, package: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            start = package[: len(package) - level + 1] if level else ()
            base = ".".join([*start, *([module] if module else [])])
            # `from package import x`: x may be a module of its own.
            return [f"{base}.{name.name}" for name in names]
    return []


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        if statements := getattr(node, field, None):
            yield statements
    for branch in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield branch.body


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
