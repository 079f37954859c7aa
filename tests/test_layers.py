"""The rules of the house that a machine can check: who may import whom, file sizes, names, docstrings, versions.

The table is the one of docs/architecture.md. It is checked twice: on the imports written in the source, directly and
through others, and on ``sys.modules`` of fresh processes, which sees what the libraries themselves drag in.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import duet

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("duet", "kernels", "deployments", "app", "loadtest", "benchmarks")


@dataclass(frozen=True)
class Room:
    """One row of the import table."""

    rooms: frozenset[str] = frozenset()
    """Rooms of ours that it may import."""
    never: frozenset[str] = frozenset()
    """Libraries that it must not import, even through others."""
    only: frozenset[str] | None = None
    """The libraries that it may import directly, where the table limits them."""


def room(rooms: str = "", *, never: str = "", only: str | None = None) -> Room:
    """Write a row with space-separated names."""
    return Room(frozenset(rooms.split()), frozenset(never.split()), None if only is None else frozenset(only.split()))


EVERY_ROOM = (
    "duet duet.protocol duet.device duet.registry kernels duet.networks duet.data duet.data.synthetic duet.training "
    "duet.training.scale_out duet.evaluation duet.publishing deployments app app.commands loadtest"
)

# the longest name that fits is the room of a module, so duet.data.synthetic has rules of its own; "duet" is the version
ROOMS = {
    "duet": room(never="torch ray fastapi", only=""),
    "duet.protocol": room(never="torch ray fastapi", only="numpy"),
    "duet.device": room("duet.protocol", never="torch ray fastapi", only="numpy onnxruntime httpx"),
    "duet.registry": room("duet.protocol", never="torch ray fastapi", only=""),
    "kernels": room(never="ray fastapi", only="torch triton numpy"),
    "duet.networks": room("duet.protocol kernels", never="ray fastapi"),
    "duet.data": room("duet.protocol duet.data.synthetic", never="ray fastapi"),
    "duet.data.synthetic": room("duet.protocol duet.data", never="torch ray fastapi", only="numpy"),
    "duet.training": room(
        "duet.protocol duet.registry kernels duet.networks duet.data duet.data.synthetic", never="ray fastapi"
    ),
    "duet.training.scale_out": room(
        "duet.protocol duet.registry kernels duet.networks duet.data duet.data.synthetic duet.training", never="fastapi"
    ),
    "duet.evaluation": room(
        "duet.protocol duet.registry kernels duet.networks duet.data duet.data.synthetic duet.training duet.device",
        never="ray fastapi",
    ),
    "duet.publishing": room(
        "duet.protocol duet.registry duet.networks duet.data duet.data.synthetic duet.training duet.evaluation",
        never="ray fastapi",
    ),
    "deployments": room("duet.protocol duet.registry kernels duet.networks", never="fastapi"),
    "app": room("duet duet.protocol duet.registry deployments"),
    "app.commands": room(EVERY_ROOM),
    "loadtest": room("duet duet.protocol duet.device duet.data.synthetic", never="torch ray"),
    "benchmarks": room(EVERY_ROOM),
}

# what a fresh process must not load when it imports a module, or with .* everything in a room; for `app` that is what
# the gateway of split placement runs, for its commands what `duet --help` waits for
FRESH_PROCESSES = {
    "duet.protocol.*": {"torch", "ray", "fastapi", "pydantic", "onnxruntime"},
    "duet.device.*": {"torch", "ray", "fastapi", "pydantic"},
    "duet.registry": {"torch", "ray", "fastapi", "pydantic", "onnxruntime"},
    "duet.data.synthetic": {"torch", "ray", "fastapi", "polars"},
    "app.gateway": {"torch", "triton", "onnxruntime"},
    "app.builder": {"torch", "triton", "onnxruntime"},
    "app.commands": {"torch", "ray", "fastapi", "numpy", "pydantic", "onnxruntime", "polars", "httpx", "matplotlib"},
    "loadtest.*": {"torch", "ray"},
}

UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
UNSAFE_LOADERS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"}
SHAPELESS_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
MAX_LINES = 400


@cache
def modules() -> dict[str, Path]:
    """Every module of ours, by dotted name."""
    found = {}
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def suite() -> tuple[Path, ...]:
    """Every Python file below tests/."""
    return tuple(sorted((ROOT / "tests").rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(module: str) -> str:
    """The row of the table that governs a module of ours."""
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len, default="")


def modules_of(name: str) -> list[str]:
    """The modules that a row governs."""
    return [module for module in modules() if room_of(module) == name]


def is_ours(name: str) -> bool:
    """Whether an imported name belongs to this project."""
    return name.split(".")[0] in SOURCES


def is_type_checking(node: ast.AST) -> bool:
    """Whether a node is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def nodes_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not is_type_checking(node):
            yield node
            yield from nodes_run(node)


@cache
def imported_by(module: str) -> frozenset[str]:
    """The full names that a module imports, anywhere in it."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in nodes_run(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import thing`: a module of ours if there is one of that name, else something in `package`
            members = {f"{origin}.{alias.name}" for alias in node.names}
            names |= (members & modules().keys()) or {origin}
            names |= {origin} if members - modules().keys() else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return frozenset(names)


def reached(module: str) -> dict[str, list[str]]:
    """Every library that importing and running a module can load, with the chain of our modules that leads to it."""
    libraries: dict[str, list[str]] = {}
    chains, seen = [[module]], {module}
    while chains:
        chain = chains.pop()
        parents = {chain[-1].rsplit(".", depth)[0] for depth in range(1, chain[-1].count(".") + 1)}
        for name in sorted(imported_by(chain[-1]) | parents):
            if not is_ours(name):
                libraries.setdefault(name.split(".")[0], [*chain, name])
            elif name not in seen and name in modules():
                seen.add(name)
                chains.append([*chain, name])
    return libraries


def test_every_module_belongs_to_a_room() -> None:
    homeless = [module for module in modules() if room_of(module) in ("", "duet") and module != "duet"]

    assert not homeless


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_the_rooms_that_the_table_allows(name: str) -> None:
    breaches = [
        f"{module} imports {imported}"
        for module in modules_of(name)
        for imported in sorted(imported_by(module))
        if is_ours(imported) and room_of(imported) not in ROOMS[name].rooms | {name}
    ]

    assert not breaches


@pytest.mark.parametrize("name", [name for name in ROOMS if ROOMS[name].only is not None])
def test_a_room_imports_only_its_own_libraries(name: str) -> None:
    allowed = (ROOMS[name].only or frozenset()) | sys.stdlib_module_names

    breaches = [
        f"{module} imports {imported}"
        for module in modules_of(name)
        for imported in sorted(imported_by(module))
        if not is_ours(imported) and imported.split(".")[0] not in allowed
    ]

    assert not breaches


@pytest.mark.parametrize("name", [name for name in ROOMS if ROOMS[name].never])
def test_a_room_never_reaches_a_library_above_it(name: str) -> None:
    chains = [reached(module) for module in modules_of(name)]

    breaches = {" -> ".join(chain[library]) for chain in chains for library in ROOMS[name].never & chain.keys()}

    assert not breaches


@pytest.mark.parametrize("name", FRESH_PROCESSES)
def test_a_fresh_process_loads_no_library_above_its_room(name: str) -> None:
    below = [module for module in modules() if f"{module}.".startswith(name[:-1]) and not module.endswith(".__main__")]
    members = below if name.endswith(".*") else [module for module in modules() if module == name]
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )

    process = subprocess.run(
        [sys.executable, "-c", program, json.dumps(members)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert process.returncode == 0, process.stderr
    loaded = {module.split(".")[0] for module in json.loads(process.stdout.splitlines()[-1])}
    assert not loaded & FRESH_PROCESSES[name]


def test_a_file_is_short_and_says_what_it_is_for() -> None:
    paths = (*modules().values(), *suite())

    long = [path for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    silent = [path for path in paths if tree_of(path).body and not ast.get_docstring(tree_of(path))]

    assert not long, f"more than {MAX_LINES} lines"
    assert not silent, "no module docstring"


def test_no_name_is_shapeless() -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in (*modules().values(), *suite())]

    assert not [path for path in paths if {part.strip("_") for part in path.parts} & SHAPELESS_NAMES]


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public classes and functions, and the public methods of those classes; overloads and setters say no more."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body)


def test_every_public_name_has_a_docstring() -> None:
    bare = [
        f"{module}.{node.name}"
        for module, path in modules().items()
        for node in public_definitions(tree_of(path).body)
        if not ast.get_docstring(node)
    ]

    assert not bare


def test_nothing_from_disk_or_outside_is_unpickled() -> None:
    breaches = []
    for module, path in modules().items():
        calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        breaches += [f"{module}: {name}" for name in {ast.unparse(call.func) for call in calls} & UNSAFE_LOADERS]
        breaches += [
            f"{module}: allow_pickle" for call in calls if "allow_pickle" in {key.arg for key in call.keywords}
        ]
        imported = {name.split(".")[0] for name in imported_by(module)}
        breaches += [f"{module}: {name}" for name in imported & UNPICKLING]

    assert not breaches


def test_the_suite_never_sleeps_and_skips_nothing() -> None:
    sleeping = [
        f"{path}:{node.lineno}"
        for path in suite()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and re.fullmatch(r"(\w+\.)*sleep", ast.unparse(node.func))
    ]
    attributes = [
        (path, ast.unparse(node))
        for path in suite()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
    ]
    skipping = [
        path for path, name in attributes if re.fullmatch(r"pytest\.(mark\.)?(skip|skipif|importorskip|xfail)", name)
    ]

    assert not sleeping
    assert not skipping


def test_changelog_package_and_project_name_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    releases = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert duet.__version__ == project["version"] == releases[0]
