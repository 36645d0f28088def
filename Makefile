# make train | test | lint | bench | help. The first call makes .venv and installs what it needs; later calls are quick.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test lint bench
.DEFAULT_GOAL := help

help:
	@echo "make train   install into .venv, then fine-tune the embedded default (python train.py); ARGS='key=value …'"
	@echo "make test    install what the tests lack, then run them all; ARGS='-m \"not slow\"' leaves out the slow ones"
	@echo "make lint    ruff and pyright"
	@echo "make bench   the benchmarks that need no other data (race.py, tasks.py and unet.py say what they need)"

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=python3.x"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

train: .venv/installed
	$(BIN)/python train.py $(ARGS)

# Two processes, a file in one of them, for the runs that its tests share; tests/conftest.py says in which order.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed
	for name in default startup; do $(BIN)/python benchmarks/$$name.py || exit 1; done
