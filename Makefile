# Two commands for a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := demo-output

.PHONY: demo test slow lint typecheck check peers clean

demo: $(VENV)/.installed
	$(BIN)/landscape demo --out $(DEMO)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# Tests too long for every run; `.ci/run` runs a named part of them.
slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# The environment. Each stamp is renewed when what it was made from changes.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "landscape needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11."; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else \
	    echo "Python's venv module is missing. On Debian: sudo apt-get install python3-venv"; exit 2; \
	  fi; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created setup.cfg pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed peers-without-dependencies.txt
	$(PIP) --editable '.[test,peers]'
	$(PIP) --no-deps --requirement peers-without-dependencies.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) --editable '.[dev]'
	@touch $@

peers: $(VENV)/.installed-test

check: test lint typecheck

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads folders, not the mapping in setup.cfg: it checks the package as it is installed.
typecheck: $(VENV)/.installed-dev
	rm -rf $(VENV)/typecheck build
	$(PIP) --no-deps --target $(VENV)/typecheck .
	rm -rf build
	cd $(VENV) && MYPYPATH=typecheck bin/mypy --strict --config-file ../pyproject.toml -p landscape
	MYPYPATH=$(VENV)/typecheck $(BIN)/mypy --strict benchmarks

clean:
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info
