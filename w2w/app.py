"""``python -m w2w.app`` starts ``python -m app``, whose name it was."""

import runpy


def main() -> None:
    """Run the package by its name: nothing here imports it."""
    runpy.run_module("app", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
