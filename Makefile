# minqwen: everything starts here. `make` alone lists what there is.

# The first Python here that is new enough; make PYTHON=/path/to/python3 overrules.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
NODE   := node_modules/.package-lock.json
MODULES = minqwen/widgets tests website eslint.config.mjs

# Tests and committed notebooks run alike everywhere: the shipped model, the lessons' own pieces, a fixed number
# of threads, no progress bars. A thread that waits for another sleeps (PASSIVE): beside other busy processes, waiting
# awake takes the very core that the other thread needs, and small steps take thirty times as long.
STEADY := env -u MINQWEN_CHECKPOINT OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=PASSIVE MINQWEN_MINE=off TQDM_DISABLE=1 TOKENIZERS_PARALLELISM=false PYTHONHASHSEED=0
NBVAL  := --nbval-current-env --nbval-cell-timeout=300
# Whole files and lessons side by side, as many as there are cores; `make test WORKERS=0`: one after the other.
WORKERS ?= auto
LESSONS = $(sort $(wildcard notebooks/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help setup lab test lint wheel bench notebooks site gpu long nano nano_moe rl mutants lessons-with-checkpoint pins clean

help:             ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 32

lab: $(READY)     ## set everything up and open the lessons in JupyterLab
	@$(VENV)/bin/minqwen lab

test: $(READY)    ## set everything up and run all tests, lessons included
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE) || echo "npm failed: the tests of the site and the explorers' lint will be skipped."; fi
	$(PY) -m ruff check
	$(STEADY) $(PY) -m pytest -q -n $(WORKERS) --maxprocesses=4 --dist=loadfile --durations=10 --nbval $(NBVAL) tests $(LESSONS)

lint: $(READY)    ## style only
	$(PY) -m ruff check
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE) && echo "npx eslint" && npx eslint $(MODULES); \
	else echo "skipped: no Node here, so the explorers' JavaScript was not linted (Debian, Ubuntu: sudo apt-get install nodejs npm)"; fi

wheel: $(READY)   ## build the package to install elsewhere, in dist: lessons and the small model are in it
	$(PY) -m build --no-isolation

bench: $(READY)   ## our operations beside transformers', side by side in one run
	$(VENV)/bin/minqwen bench

notebooks: $(READY) ## run the lessons in place and keep their outputs (ONLY=03_delta_rule for one)
	$(STEADY) $(PY) tests/notebooks_support.py $(ONLY)

site: $(READY) $(NODE) ## the lessons and their explorers as static pages, in build/site
	$(STEADY) $(PY) website/build.py

gpu: $(READY)     ## the delta rule's kernels and a whole model on this machine's GPU: right, and how fast; figures in build/gpu
	$(PY) -m minqwen.gpu --out build/gpu

long: $(READY)    ## what a long text costs on this machine: memory and work, up to 131,072 tokens; into data/long_context.json
	$(PY) -m minqwen.long_context

nano: $(READY)    ## train the small model of data/nano again, from scratch
	$(PY) -m minqwen.nano.train

nano_moe: $(READY) ## train its small sibling of data/nano_moe again, a mixture of experts
	$(PY) -m minqwen.nano.train --experts
	$(PY) -m minqwen.nano.balance

rl: $(READY)      ## what lesson 14 begins with and looks at: data/nano_sft, and runs of reinforcement learning, in data/rl
	test -e data/nano_sft/sft.json || $(PY) -m minqwen.nano.sft
	$(PY) -m minqwen.nano.records

mutants: $(READY) ## break the library one line at a time; every lesson and test that teaches the line must go red
	$(STEADY) $(PY) -m pytest -q -m mutants tests

lessons-with-checkpoint: $(READY) ## run the lessons on MINQWEN_CHECKPOINT=<folder or name> instead of the nano model
	@test -n "$$MINQWEN_CHECKPOINT" || { echo "Say which checkpoint the lessons should run on: MINQWEN_CHECKPOINT=Qwen/Qwen3.5-0.8B make lessons-with-checkpoint (a name or a folder)."; exit 1; }
	@where="$$MINQWEN_CHECKPOINT"; if test -d "$$where"; then where=$$(cd "$$where" && pwd); fi; \
	$(STEADY) MINQWEN_CHECKPOINT="$$where" $(PY) -m pytest -q --nbval-lax $(NBVAL) $(LESSONS)

pins: $(READY)    ## write requirements.txt from what is installed now
	@{ sed -n '/^#/p' requirements.txt; \
	  $(PY) -m pip freeze --all --exclude-editable | sed 's/+cpu$$//; /^triton==/s/$$/ ; sys_platform == "linux"/' | grep -v '^pip=='; } > requirements.new
	@mv requirements.new requirements.txt

clean:            ## remove the environment and everything that tools left behind
	rm -rf $(VENV) node_modules build dist *.egg-info .pytest_cache .ruff_cache .ipynb_checkpoints notebooks/.ipynb_checkpoints
	find minqwen tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(READY)   ## set everything up and nothing more

# The set-up, done again only when the pins or the package's own list have changed.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "minqwen needs Python 3.11 or newer; say where one is: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv; install it (Debian, Ubuntu: sudo apt-get install python3-venv) or say where another Python is: make PYTHON=/path/to/python3"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "Making $(VENV): a few minutes and about 2 GB the first time (more where PyTorch brings its GPU libraries)."; $(PYTHON) -m venv --clear $(VENV); }
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $(READY)

# What the site is made with, and the linter of the explorers' modules; done again only when the list has changed. No
# lesson needs Node.
$(NODE): package.json package-lock.json
	@command -v npm >/dev/null || { echo "This needs Node 18.18 or newer with npm (Debian, Ubuntu: sudo apt-get install nodejs npm)."; exit 1; }
	npm ci
	@touch $(NODE)
