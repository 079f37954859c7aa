"""Lines of code: those that hold a token, without comments and documentation."""

import ast
import io
import tokenize
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

_NOTHING = frozenset(
    (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
)


def code_lines(source: str) -> int:
    """Count the lines of a Python source that are code; a string of several lines counts each of them."""
    documented = {line for first, last in _documentation(ast.parse(source)) for line in range(first, last + 1)}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NOTHING
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - documented)


def lines_of(paths: Iterable[Path]) -> int:
    """Count those of files, and of all Python files in folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return sum(code_lines(file.read_text(encoding="utf-8")) for file in files)


def folder_of(package: str) -> Path:
    """Return where an installed package of this environment lies.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent


def _documentation(tree: ast.AST) -> Iterable[tuple[int, int]]:
    """Find documentation: the strings that stand alone, and ``Doc(...)`` in annotations, as FastAPI has it."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) | ast.Call(func=ast.Name(id="Doc")):
                yield node.lineno, node.end_lineno or node.lineno
