# make demo   two minutes of reading and ten of waiting: pictures → model → decisions on MQTT
# make test   everything that is proved without a GPU
# make lab    whole federations of real processes: hostile sites, kill -9, three plants from an invite to decisions
# make check  style, types, import contracts
# make bench  the benchmark tables (long)
PYTHON ?= python3
VENV ?= .venv
DATA ?=
PIP_FLAGS ?=
BIN := $(VENV)/bin

.PHONY: help install dev demo test lab check bench clean

help:
	@sed -n 's/^# //p' Makefile

install: $(VENV)/.installed
dev: $(VENV)/.dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing edge-sft for training into $(VENV) (PyTorch is the large part: about 2.5 GB to download,"
	@echo "5.5 GB on disk; a device needs none of it)."
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 13) else "edge-sft needs Python 3.10 to 3.12; call: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1' $(PIP_FLAGS)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,vision,train]' $(PIP_FLAGS)
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt --group dev $(PIP_FLAGS)
	@touch $@

demo: install
	$(BIN)/edge-sft demo $(if $(DATA),--data "$(DATA)")

test: dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4

lab: dev
	$(BIN)/python -m pytest -n logical --maxprocesses 2 -m lab tests/federated tests/examples

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: dev
	$(BIN)/python benchmarks/quantization.py --demo
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/durability.py
	$(BIN)/python benchmarks/hotswap.py
	$(BIN)/python benchmarks/accuracy.py

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache
