"""Imports follow the layers without cycles, and files keep to the rules of form.

engine, data <- pretrain, vocoders <- w2w <- eval <- app; experiments and benchmarks import all, and nothing
imports them.
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("engine", "data", "pretrain", "vocoders", "w2w", "eval", "app")
MAY_IMPORT: dict[str, set[str]] = {
    "engine": set(),
    "data": {"engine"},
    "pretrain": {"engine", "data"},
    "vocoders": {"engine", "data"},
    "w2w": {"engine", "data", "pretrain", "vocoders"},
    "eval": {"engine", "data", "pretrain", "vocoders", "w2w"},
    "app": {"engine", "data", "pretrain", "vocoders", "w2w", "eval"},
    "experiments": {*PRODUCT, "benchmarks"},
    "benchmarks": {*PRODUCT, "experiments"},
    "examples": {*PRODUCT},
}
NO_PACKAGE = {"tests", "docs"}
FILES = sorted(p for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}


@cache
def imported_modules(path: Path) -> set[str]:
    """The modules of this project that a file imports, also inside functions, except for type checking."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*inside, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return {name for name in found if name.split(".")[0] in MAY_IMPORT}


def test_every_package_has_its_layer():
    packages = {
        path.parts[0] for path in map(Path, tracked()) if path.suffix == ".py" and len(path.parts) > 1
    }
    assert packages - NO_PACKAGE == set(MAY_IMPORT)


def tracked() -> list[str]:
    """Files of the project according to git; without git, those in its folders."""
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return git.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/**/*.py")]


def test_imports_point_left():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        for name in imported_modules(path)
        if name.split(".")[0] not in {package := path.relative_to(ROOT).parts[0], *MAY_IMPORT[package]}
    ]
    assert wrong == []


def test_imports_have_no_cycles():
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


UNRELATED = {
    "data.batches": ("pretrain", "w2w"),
    "w2w.converter": ("w2w.baselines", "w2w.train", "vocoders", "eval", "app", "transformers"),
    "w2w.train": ("w2w.baselines", "vocoders", "eval", "app"),
}
"""Packages that importing a module must not load; each module also loads those above it."""


def test_modules_load_no_unrelated_packages():
    code = "; ".join(["import sys", *(f"import {name}; print(*sys.modules)" for name in UNRELATED)])
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line, (module, unrelated) in zip(loaded.stdout.splitlines(), UNRELATED.items(), strict=True):
        for name in line.split():
            assert not any(f"{name}.".startswith(f"{one}.") for one in unrelated), f"{module} loads {name}"


def test_no_file_beside_an_entry_point_shadows_the_standard_library():
    """Running an entry point puts its folder first on the import path."""
    names = {path.stem for path in FILES if path.parent.parent == ROOT} - {"__init__"}
    assert not names & sys.stdlib_module_names


def test_files_are_short_and_begin_with_a_docstring():
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
    assert [name for name, text in texts.items() if text.count("\n") > 300] == []
    # That import hides shapes from the checker.
    assert [name for name, text in texts.items() if "from __future__ import annotations" in text] == []
    # A file begins with its docstring.
    assert [name for name, text in texts.items() if not text.startswith(('"""', 'r"""'))] == []
