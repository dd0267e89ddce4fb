# make demo: hear the released converter, train it further in small, score.    make test: the fast tests.
# Each makes the environment it needs. Variables: VENV, PYTHON (3.11 or newer), DEMO (the demo's folder).

VENV ?= .venv
DEMO ?= demo
PYTHON ?=

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --constraint constraints.txt
CHECKED = "not slow and not gpu"

.PHONY: help demo test slow check format lines clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    hear the released converter on one page; then train it further in small, and score"
	@echo "make test    the fast tests: 5 minutes on 2 cores"
	@echo "make slow    the slow tests"
	@echo "make check   lint, formatting, types"
	@echo "make format  put formatting and import order right"
	@echo "make lines   count the code: all of it, and the core"
	@echo "make clean   remove the demo and caches, keep the environment"

demo: $(VENV)/demo.stamp
	@$(BIN)/python examples/demo.py --out "$(DEMO)"

test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m $(CHECKED)

slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lines: $(VENV)/dev.stamp
	@$(BIN)/python tests/count_lines.py

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis

# Resemblyzer asks for a package that needs a compiler; the extra "eval" holds a built one in its place.
$(VENV)/demo.stamp $(VENV)/dev.stamp: $(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing into $(VENV): some minutes, some gigabytes"
	@$(INSTALL) hatchling editables "setuptools<81"
	@$(INSTALL) --no-build-isolation --editable ".[$*]"
	@$(INSTALL) --no-deps resemblyzer
	@touch $@

$(BIN)/pip:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" -m venv "$(VENV)" && exit 0; \
			echo "error: $$python cannot make environments: install its venv package (apt install python3-venv)" >&2; \
			exit 2; \
		fi; \
	done; echo "error: Python 3.11 or newer is needed: install it, or give its path by PYTHON=" >&2; exit 2
