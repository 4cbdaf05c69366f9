# `make demo` and `make test` do all the set-up, in .venv, and are safe to run again. README.md writes them out as plain pip commands.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m

.PHONY: help demo test check docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install into $(VENV) and let SmolLM2-135M-Instruct answer one question"
	@echo "make test    install what the tests need and run them"
	@echo "make check   ruff, pyright and the documentation, as the CI does"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove $(VENV) and what was built"

demo: $(VENV)/.installed
	$(VENV)/bin/hunmin chat "What is the capital of Japan?"

test: $(VENV)/.installed-dev
	$(RUN) pytest

check: $(VENV)/.installed-dev
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/check

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache

# The stamps live inside the environment, so that removing it removes them too.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN) pip install -e ".[dev]"
	touch $@
