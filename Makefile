# Each command sets up all it needs, in .venv, with the newest of these Pythons that runs here. To choose: make test PYTHON=PATH
VERSIONS := 3.14 3.13 3.12 3.11
# A name on PATH may be a shim for nothing, or lack what makes environments, so each is tried. Those of pyenv need not be on PATH.
TRY := import ensurepip, sys, venv; sys.exit(sys.version.split(".")[:2] != sys.argv[1].split("."))
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
PYTHONS = $(shell for version in $(VERSIONS); do for python in python$$version python3 $(PYENV)/$$version.*/bin/python; do \
	$$python -c '$(TRY)' $$version 2>/dev/null && echo $$python && break; done; done)
PYTHON ?= $(firstword $(PYTHONS))
VENV := .venv
# Where the environment tells Python to keep no compiled modules, each process that a test starts would compile those of JAX again.
unexport PYTHONDONTWRITEBYTECODE
# Most of the time is compiling, by one core: two to four files of tests at once, as there are cores.
TEST = $(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

# Of evaluation. They ask for torchvision, a large download that has to be of one build with torch and that no test here uses.
ORACLES := torch-fidelity==0.4.0 pytorch-fid==0.3.0

.PHONY: demo test fast-test peers-test site links lint pythons clean

demo: $(VENV)/demo.installed
	$(VENV)/bin/python -m experiments.demo --output=runs/demo

test: $(VENV)/test.installed
	$(TEST)

fast-test: $(VENV)/test.installed
	$(TEST) -m "not slow"

# The comparisons with PyTorch and diffusers, which the other two leave out where these are not installed.
peers-test: $(VENV)/peers.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(ORACLES)
	$(TEST) tests/interop tests/diffusion tests/evaluation tests/experiments -k "interop or diffusers or inception or efficientnet or scores"

# The documentation as a site, runs/site/index.html.
site: $(VENV)/docs.installed
	$(VENV)/bin/python -m sphinx -W --keep-going -q -c docs . runs/site

# Whether the addresses that its pages name answer: for people, since the web is no part of the tests.
links: $(VENV)/docs.installed
	$(VENV)/bin/python -m sphinx -b linkcheck -q -c docs . runs/links

lint: $(VENV)/lint.installed
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m mypy

# The Pythons that `make` may take here, newest first.
pythons:
	@echo $(PYTHONS)

# Nothing is compiled here (two thirds of the time): Python compiles what a command imports.
$(VENV)/%.installed: setup.cfg constraints.txt
	test -x $(VENV)/bin/python || $(or $(PYTHON),$(error None of Python $(VERSIONS) runs here: install one with its venv)) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest runs/demo
