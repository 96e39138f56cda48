# make demo    the main job on this machine: real processes, mutual TLS, real data
# make test    all tests
# make check   lint, format, types, layers, style, generated code
# make proto   regenerates enclave/wire from proto/
# make env     the environment alone
# make bench         protocols and small models, ours and plaintext, into out/bench.jsonl and out/bench.html; minutes
# make bench-peers   the same beside CrypTen and SPU, installed apart into .venv-peers
# make bench-he      homomorphic encryption beside stock TenSEAL and OpenFHE, the latter in .venv-peers; an hour
#
# Each target makes .venv when it is missing and brings it up to date when pyproject.toml, constraints.txt or the C sources changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check proto env bench bench-peers bench-he clean

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp

# Data sets that are not part of the project; tests that need one are skipped where there are none.
ifneq ($(wildcard ../shared/data),)
export ENCLAVE_DATA ?= $(abspath ../shared/data)
endif

demo: $(STAMP)
	$(BIN)/enclave demo $(DEMO_ARGS)

# One thread a process: the tests run many parties at once.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS) tests

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_style.py tests/test_wire.py

proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. proto/enclave/wire/*.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --grpc_python_out=. proto/enclave/wire/node.proto

env: $(STAMP)

# BENCH_ARGS may narrow a run: BENCH_ARGS="--cases 'relu/*' --repeat 9 --profile wan"
BENCH := OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks
PEERS := crypten-ttp,crypten-tfp,spu-semi2k

bench: $(STAMP)
	mkdir -p out
	rm -f out/bench.jsonl
	$(BENCH) run --suite floor --out out/bench.jsonl
	$(BENCH) run --suite mpc --systems enclave,enclave-online,plain --repeat 5 --out out/bench.jsonl $(BENCH_ARGS) \
	  || test $$? = 1
	$(BENCH) compare out/bench.jsonl
	$(BENCH) report out/bench.jsonl -o out/bench.html

bench-peers: $(STAMP)
	mkdir -p out
	rm -f out/bench-peers.jsonl
	$(BIN)/python -m benchmarks.peers install
	$(BENCH) run --suite floor --out out/bench-peers.jsonl
	$(BENCH) run --suite mpc --systems enclave,enclave-online,$(PEERS),plain --repeat 5 --out out/bench-peers.jsonl \
	  $(BENCH_ARGS) || test $$? = 1
	$(BENCH) compare out/bench-peers.jsonl
	$(BENCH) report out/bench-peers.jsonl -o out/bench-peers.html

# OpenFHE's column is dropped, with the reason, where none of its wheels loads.
bench-he: $(STAMP)
	mkdir -p out
	rm -f out/bench-he.jsonl
	$(BIN)/python -m benchmarks.peers install --peer openfhe
	$(BENCH) run --suite he --systems enclave,tenseal,openfhe,plain --repeat 3 --out out/bench-he.jsonl $(BENCH_ARGS) \
	  || test $$? = 1
	$(BENCH) compare out/bench-he.jsonl
	$(BENCH) report out/bench-he.jsonl -o out/bench-he.html

$(STAMP): pyproject.toml constraints.txt $(wildcard enclave/engines/*/kernels/native/*)
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3.11 python3 python3.12 python3.13; do \
	    if $$candidate -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then echo "needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then $$python -m venv --clear $(VENV); fi
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers build out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
