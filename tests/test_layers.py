"""Imports point one way: engine, data <- pretrain, vocoders <- w2w <- eval <- app; studies see everything."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "engine": set(),
    "data": set(),
    "pretrain": {"engine", "data"},
    "vocoders": {"engine", "data"},
    "w2w": {"engine", "data", "pretrain", "vocoders"},
    "eval": {"engine", "data", "pretrain", "vocoders", "w2w"},
    "app": {"engine", "data", "pretrain", "vocoders", "w2w", "eval"},
    "experiments": {"engine", "data", "pretrain", "vocoders", "w2w", "eval", "app", "benchmarks"},
    "benchmarks": {"engine", "data", "pretrain", "vocoders", "w2w", "eval", "app"},
}
DATA_MAY_IMPORT = {"engine.arguments", "engine.files", "engine.user_error", "engine.config", "engine.seeding"}
FILES = sorted(p for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Return the full names of what a file imports anywhere in it, from its own package too."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*inside, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imported_modules(path):
        target = name.split(".")[0]
        if target not in MAY_IMPORT or target == package or target in MAY_IMPORT[package]:
            continue
        if package == "data" and any(f"{name}.".startswith(f"{allowed}.") for allowed in DATA_MAY_IMPORT):
            continue
        if package == "data" and name == "engine":  # the package half of ``from engine import config``
            continue
        pytest.fail(f"{path.relative_to(ROOT)} imports {name}: {package} may not know {target}")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_beside_an_entry_point_takes_a_standard_name(path):
    """Running an entry point puts its folder first on the import path."""
    if path.parent.parent == ROOT:
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_hold_one_idea(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    assert "from __future__ import annotations" not in text, "it hides shapes from the checker"
    assert ast.get_docstring(ast.parse(text)), "a file begins with what it is"
