# Everything a newcomer, a developer and CI need. `make demo` and `make test` work from a fresh clone with make and
# Python >= 3.11; `make system` adds Debian packages that only some tests need.
#
#   make demo     set up, run the main job, write its report
#   make test     set up, then lint, type check and all tests
#   make lint     ruff and pyright alone
#   make bench    every side-by-side measurement (long)
#   make system   Debian packages for the browser and database tests; needs root
#
# PYTHON=python3.12          which Python makes the environment (default: the first of 3.11, 3.12, 3.13 that is found)
# BACKFLIP_TORCH_INDEX=URL   a package index to take torch from, such as the CPU index that pytorch.org names

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(foreach version,3.11 3.12 3.13,$(shell python$(version) -c '' 2>/dev/null && command -v python$(version))),python3)
PYTHON := $(firstword $(PYTHON))
PIP := $(BIN)/python -m pip --disable-pip-version-check
BENCHES := $(filter-out bench/common.py bench/ppo_task.py bench/control_task.py,$(sort $(wildcard bench/*.py)))
PEERS := trl112 trl116 sb3 imitation
SYSTEM := chromium postgresql fonts-dejavu-core

.PHONY: demo test lint bench system setup clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/backflip run reviews
	$(BIN)/backflip report runs/latest

# Two processes; a file's tests stay in one of them, for they share what is made once. Three took longer on two cores (lab/LOG.md).
test: $(VENV)/.developer lint
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.developer $(PEERS:%=$(VENV)-%/.installed)
	@for file in $(BENCHES); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

system:
	@echo "This installs Debian packages with apt-get: $(SYSTEM)"
	@[ "$$(id -u)" = 0 ] || { echo "make system needs root; run: sudo make system" >&2; exit 1; }
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SYSTEM)

setup: $(VENV)/.developer

# The peers' own versions, an environment for each: bench/peers/NAME.txt says what and why.
$(PEERS:%=$(VENV)-%/.installed): $(VENV)-%/.installed: bench/peers/%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip --disable-pip-version-check install -r $<
	touch $@

# torch comes first and alone where an index is given: that index need not hold the rest, and is not asked for it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Backflip needs Python 3.11 or newer; $(PYTHON) is older: make PYTHON=/path/to/python3.11 demo" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(if $(BACKFLIP_TORCH_INDEX),$(PIP) install --no-deps --constraint constraints.txt --index-url "$(BACKFLIP_TORCH_INDEX)" torch)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS:%=$(VENV)-%) build dist src/*.egg-info
