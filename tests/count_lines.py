"""Count the lines of code without tests: all, and the core, which trains, converts, streams and scores."""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = ("w2w.train", "w2w.convert", "w2w.stream", "w2w.exported.engine", "eval.run")


def main() -> None:
    packages = {path.parent for path in ROOT.glob("*/__init__.py")}
    product = {path for package in packages for path in package.rglob("*.py")}
    sys.path.insert(0, str(ROOT))
    for module in CORE:
        import_module(module)
    loaded = {Path(path) for module in sys.modules.values() if (path := getattr(module, "__file__", None))}
    for name, paths in ("all", product), ("core", product & loaded):
        n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        print(f"{name}: {n_lines} lines in {len(paths)} files")


if __name__ == "__main__":
    main()
