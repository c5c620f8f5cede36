# Everything is installed in .venv; stamp files there say what is, so that nothing is installed twice.
# Needed beforehand: Python 3.10 or newer, a C++17 compiler, and a network for pip the first time.

PYTHON ?= python3
DEMO_ARGS ?= --data digits --depth 9 --retrain --threads 1 --directory runs/demo --resume
TEST_ARGS ?=
# The tests' tensors are tiny: a second thread gives little, and on a busy machine waiting for it costs tenfold.
# Tests of threads set their own number.
ONE_THREAD := OMP_NUM_THREADS=1
# One process runs all tests of a file, which share what takes long to make. Each process takes more than 1 GB.
PROCESSES := --numprocesses auto --maxprocesses 4 --dist loadfile
BENCH_ARGS ?=

VENV := .venv
SANITIZED := build/sanitize
SANITIZED_TESTS := $(wildcard tests/engine/test_schedule_*.py tests/ops/test_*_nhwc*.py tests/ops/test_bn_act*.py) \
  tests/engine/test_scores.py tests/ops/test_packing.py tests/ops/test_sgd.py
BIN := $(VENV)/bin
NATIVE := $(shell find csrc -type f)
NATIVE_CODE := $(filter %.h %.hpp %.cuh %.cpp %.cu,$(NATIVE) $(wildcard tests/native/*))
STUB := csrc/bindings/make_stub.py
PYTHON_CODE := $(wildcard lasfast tests examples benchmarks .ci docs/conf.py setup.py $(STUB))

.DEFAULT_GOAL := help
.PHONY: help demo test sanitize lint format docs bench clean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package  ## install, then search layer assignments for handwritten digits (no download)
	$(BIN)/lasfast search nir $(DEMO_ARGS)

test: $(VENV)/.test  ## run the test-suite (TEST_ARGS="-m slow" for the slow tests)
	$(ONE_THREAD) $(BIN)/python -m pytest $(PROCESSES) $(TEST_ARGS)

# Each file of tests leaves a stamp once it has passed: what was interrupted goes on where it was.
sanitize: $(SANITIZED_TESTS:tests/%.py=$(SANITIZED)/passed/%)  ## run the tests of single operations on native code built with sanitizers

# A copy of the package with a module of its own, so that the one in use stays as it is.
$(SANITIZED)/.site: $(VENV)/.test CMakeLists.txt $(NATIVE) $(shell find lasfast -name '*.py')
	$(BIN)/python -m pip install cmake ninja pybind11
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -G Ninja -S . -B $(SANITIZED)/native -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DLASFAST_SANITIZE=ON -DLASFAST_CUDA=OFF -DLASFAST_EMULATE=ON \
	  -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" \
	  -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(SANITIZED)/native
	rm -rf $(SANITIZED)/site && mkdir -p $(SANITIZED)/site && cp -R lasfast $(SANITIZED)/site
	rm -f $(SANITIZED)/site/lasfast/*.so && cp $(SANITIZED)/native/_*.so $(SANITIZED)/site/lasfast
	@touch $@

# `python -m pytest` would look in this directory first. Python itself leaks, and a small quarantine of what is
# freed saves memory.
$(SANITIZED)/passed/%: tests/%.py $(SANITIZED)/.site
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONPATH=$(SANITIZED)/site $(ONE_THREAD) $(BIN)/pytest -p no:cacheprovider $< $(TEST_ARGS)
	@$(if $(TEST_ARGS),,mkdir -p $(@D) && touch $@)

lint: $(VENV)/.lint  ## check style and types, change nothing
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/python $(STUB) --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_CODE)

format: $(VENV)/.lint  ## rewrite the code in the project's style, and what is made of code
	$(BIN)/python $(STUB)
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(NATIVE_CODE)

docs: $(VENV)/.docs  ## build the documentation site in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/docs

bench: $(VENV)/.test  ## run the benchmarks of single operations
	$(BIN)/python -m pytest benchmarks $(BENCH_ARGS)

clean:  ## remove what was installed and built; runs/ and data/ stay
	rm -rf $(VENV) build dist lasfast.egg-info lasfast/_*.so
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(PYTHON_CODE) -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.environment:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.10 or newer," \
	  "or name it, as in: make PYTHON=/usr/bin/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "lasfast needs Python 3.10 or" \
	  "newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`: name another, as in: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments: on Debian and" \
	  "Ubuntu, install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.environment pyproject.toml setup.py CMakeLists.txt $(NATIVE)
	LASFAST_EMULATE=ON $(BIN)/python -m pip install -e .
	@touch $@

# What pyproject.toml lists as an extra is read back from the installed package: installing `.[test]` would build
# the extension once more.
$(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: $(VENV)/.package
	$(BIN)/python -I -c 'import importlib.metadata, re; print(*(requirement.split(";")[0] for requirement in \
	  importlib.metadata.requires("lasfast") if re.search("extra == .$*.$$", requirement)), sep="\n")' >$@.txt
	$(BIN)/python -m pip install -r $@.txt
	@touch $@
