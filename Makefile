# `make demo` and `make test` do all the set-up: they need python3 (with venv) and make, nothing else.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow hub lint docs dist notebooks site clean

demo: $(VENV)/core
	$(VENV)/bin/hierax demo

test: $(VENV)/dev lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow and not peers and not hub" --numprocesses 2 --dist worksteal

slow: $(VENV)/dev
	$(VENV)/bin/python -m pytest -m slow

hub: $(VENV)/dev
	$(VENV)/bin/python -m pytest -m hub

lint: $(VENV)/dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

dist: $(VENV)/dev
	$(VENV)/bin/python tools/dist.py

docs: $(VENV)/dev # the site, without a network: open build/site/index.html
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --write-all -c docs/site -d build/site-cache . build/site

notebooks: $(VENV)/dev # runs the lessons from top to bottom, and keeps their outputs
	$(VENV)/bin/python notebooks/run.py -o build/notebooks

site: notebooks # the site with the outputs of the lessons
	$(MAKE) docs

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist
