# make demo | make test | make bench: each makes .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
LOCK_STAMP := .venv/.requirements

.PHONY: demo test bench lint lock clean-demo

demo: $(LOCK_STAMP)
	@$(BIN)/snakemake --cores 2 -- results/demo_metrics.csv
	@$(BIN)/python -m pipeline.table --experiment demo --show

test: $(LOCK_STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

lint: $(LOCK_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy

bench: $(LOCK_STAMP)
	$(BIN)/python -m bench.run

# The environment: hashes are checked, addresses are the machine's own pip settings.
$(LOCK_STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Retake needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -c 'import cv2' \
	  || { echo "OpenCV cannot be loaded: sudo apt-get install libgl1 libglib2.0-0"; exit 1; }
	@touch $@

# After an edit of pyproject.toml; needs uv.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --fork-strategy fewest --no-emit-index-url --no-emit-find-links --no-header --quiet -o requirements.lock
