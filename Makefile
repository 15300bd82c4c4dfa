# Two commands, each complete on a fresh machine: `make demo` and `make test`. Both share .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
BUILD := build
export PATH := $(BIN):$(PATH)
export TORCHQUANT_BUILD_DIR := $(BUILD)

.PHONY: demo test bench build test-cpp test-python sanitize fuzz lint format clean

demo: build
	$(BIN)/python -m torchquant demo

# ctest and pytest for every kernel set that this machine runs, the best one first.
test: test-cpp test-python

build: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

test-cpp: build
	tests/cpp/install_gtest.sh
	cmake -S . -B $(BUILD) -DTORCHQUANT_TESTS=ON > /dev/null
	cmake --build $(BUILD) --parallel
	set -e; for kernels in $$($(BUILD)/tests/cpp/list_kernels); do \
	  echo "ctest, kernels $$kernels"; \
	  TORCHQUANT_KERNELS=$$kernels ctest --test-dir $(BUILD) --output-on-failure --no-tests=error; \
	done

test-python: test-cpp
	set -e; for kernels in $$($(BUILD)/tests/cpp/list_kernels); do \
	  echo "pytest, kernels $$kernels"; \
	  TORCHQUANT_KERNELS=$$kernels $(BIN)/python -m pytest; \
	done

# The C++ tests and the fuzzers' corpus under clang's sanitizers, and a C++ program under valgrind.
sanitize: build
	tests/cpp/sanitize.sh

# Differential fuzzing of kernels, operators and files, FUZZ_SECONDS for each target and kernel set.
FUZZ_SECONDS ?= 30
fuzz: build
	tests/fuzz/run.sh $(FUZZ_SECONDS)

# The INT8 products and layers, the elementwise operators, calibration and a model, beside their
# peers, in about an hour on a quiet machine.
bench: build
	$(BIN)/pip install --quiet --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/matmul.py
	$(BIN)/python benchmarks/elementwise.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/minilm.py

SOURCES := $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

lint: build
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $(SOURCES)
	$(BIN)/python .ci/check_layers.py $(BUILD)

format:
	ruff check --fix .
	ruff format .
	clang-format -i $(SOURCES)

clean:
	rm -rf $(BUILD) build-asan build-tsan torchquant/lib torchquant/include torchquant/share
