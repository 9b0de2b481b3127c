# make demo   trains, exports and adapts a small model, start to finish (into demo/)
# make test   all checks: style, types, tests
# make docs   the documentation, into build/site; make docs-notebook executes its tutorial anew
# make test-arm64  the runtimes on an emulated ARM64 processor; the first time it downloads 150 MB
# make phones      compiles and runs the samples for phones in the tests; it downloads 400 MB
# make bench  training and adaptation beside PyTorch and JAX: makes their environments, 10 minutes;
#             make bench DEVICE=gpu does it on a GPU
# make bench-export   the exported adaptation in the Gram form against the plain loop
# make bench-serving  heads in bulk against one by one; 32 clients on a server (8 GB of scratch)
# Each makes its environment, .venv, the first time. Another Python: make test PYTHON=python3.13

PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/ready
TYPES := build/types
WEB := examples/browser/node_modules/.ready
ARM64 := build/arm64/python
PHONES := build/phones

.PHONY: demo test test-arm64 arm64 phones web lint types docs docs-notebook bench bench-export bench-serving clean

demo: $(READY)
	$(BIN)/python examples/demo.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What the notebook makes lies in build/tutorial; PHOTOS=DIR takes photographs of your own.
docs-notebook: $(READY)
	@mkdir -p build/tutorial
	cp docs/tutorial.ipynb build/tutorial/
	if [ -n "$$PHOTOS" ]; then PHOTOS=$$(cd "$$PHOTOS" && pwd) || exit; export PHOTOS; fi; \
	cd build/tutorial && PATH="$(BIN):$$PATH" $(BIN)/jupyter nbconvert --to notebook --execute \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=1200 \
	  --output-dir $(CURDIR)/docs tutorial.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True \
	  docs/tutorial.ipynb
	$(BIN)/ruff format docs

bench: $(READY)
	@mkdir -p build/bench
	$(BIN)/python -m benchmarks.speed.compare --device $(DEVICE) \
	  --json build/bench/compare.json --markdown build/bench/compare.md

bench-export: $(READY)
	$(BIN)/python -m benchmarks.adapt

bench-serving: $(READY)
	$(BIN)/python -m benchmarks.adapt_many
	$(BIN)/python -m benchmarks.serving_load

# One worker more than there are cores: some wait for a server, a browser or another worker.
test: lint web
	$(BIN)/python -m pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) \
	  --maxprocesses 4 --dist worksteal

test-arm64: arm64
	$(BIN)/python -m pytest tests/export/test_arm64.py

# `make test` runs these tests too where this has been made.
arm64: $(ARM64)

$(ARM64): tools/arm64.py constraints.txt | $(READY)
	@echo "Making an ARM64 Python in build/arm64, emulated by qemu."
	$(BIN)/python -m tools.arm64 build/arm64

# What compiles and runs the samples for phones: `make test` does so where this has been made.
phones: $(PHONES)

$(PHONES): tools/phones.py | $(READY)
	@echo "Getting compilers and libraries for the samples of phones into $(PHONES)."
	$(BIN)/python -m tools.phones $(PHONES)

# The packages of the browser's and Node's tests.
web:
	@if command -v npm >/dev/null; then $(MAKE) --silent $(WEB); \
	else echo "There is no npm: the tests of the browser and of Node are skipped."; fi

$(WEB): examples/browser/package-lock.json
	cd examples/browser && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --silent types

# mypy reads no import hook and no __path__: it gets the packages as a wheel lays them out.
types: $(READY)
	@rm -rf $(TYPES)
	@mkdir -p $(TYPES)/anil_tf
	@ln -s $(CURDIR)/anil_tf/* $(CURDIR)/training $(CURDIR)/export $(TYPES)/anil_tf
	cd $(TYPES) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	  --cache-dir $(CURDIR)/.mypy_cache --package anil_tf

$(READY): pyproject.toml constraints.txt
	@echo "Making $(VENV): the first time it takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	test ! -e demo/.made-by-the-demo || { cd demo && \
	  rm -rf data run bundle letters figures.json answers.png .made-by-the-demo; }
	@rmdir demo 2>/dev/null || true
	find anil_tf training export tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
