# make demo     create the environment if needed and generate four clips with the built-in checkpoint
# make comfyui  find or install ComfyUI, put this pack into it, start it and print its address
# make test     create the environment if needed and run every test
# make check    what a change must pass: format, lint, types, tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BASE   := $(VENV)/.installed-base

.PHONY: demo comfyui test check format lint types clean

$(BASE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $(BASE)

$(STAMP): $(BASE)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,world,dev]'
	touch $(STAMP)

demo: $(BASE)
	$(BIN)/harmony demo $(ARGS)

comfyui:
	$(PYTHON) scripts/comfyui.py --venv $(VENV) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto $(ARGS)

check: lint types test

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
