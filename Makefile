# Everything this writes stays inside the project's folder: uv in .tools/uv, its downloads in .tools/cache, packages in .venv.
# `make PYTHON=python3.12 …` chooses the interpreter (3.11 or newer); another one than last time makes .venv anew.

PYTHON ?= python3
export UV_CACHE_DIR ?= $(CURDIR)/.tools/cache
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
unexport VIRTUAL_ENV

RUN := .venv/bin/python -m
OWN_UV := .tools/uv/bin/uv
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(OWN_UV))
# The interpreter itself, also where $(PYTHON) is a link or an activated environment's; empty where it is too old.
INTERPRETER := $(shell $(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable) if sys.version_info >= (3, 11) else "")' 2>/dev/null)
# In .venv, so that it goes with it, and named after the interpreter, so that another one is noticed.
SYNCED := .venv/.synced-$(shell echo "$(INTERPRETER)" | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.PHONY: help setup run gateway worker test test-integration lint types audit bench soak chaos chaos-long planted-bugs deploy-test clean interpreter

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(SYNCED) ## Start all of it on this machine (embedded Valkey, worker, gateway), with reload; Ctrl-C ends it
	@$(RUN) gateway --dev

test: $(SYNCED) ## Run the tests; reports/ gets the HTML and JUnit reports
	@$(RUN) pytest tests --ignore=tests/chaos --ignore=tests/deploy --numprocesses=3 --dist=loadfile \
	  --html=reports/test_report.html --self-contained-html --junitxml=reports/junit.xml

test-integration: $(SYNCED) ## Only those on a real Valkey and a real PostgreSQL
	@$(RUN) pytest tests/integration --numprocesses=3 --dist=loadfile \
	  --html=reports/integration_report.html --self-contained-html --junitxml=reports/integration.xml

lint: $(SYNCED) ## Check style, formatting and which part may import which
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@.venv/bin/lint-imports

types: $(SYNCED) ## Check the types
	@$(RUN) mypy

# uv's status is 1 where it has found something, and 2 where it could not ask.
audit: $(SYNCED) ## Ask osv.dev for known weaknesses of the locked packages; where it cannot be reached, say so
	@UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=1 $(UV) audit --preview-features audit-command --frozen || { status=$$?; \
	  test $$status -eq 2 || exit $$status; echo "make audit: NOT CHECKED, for the reason above" >&2; }

gateway: $(SYNCED) ## Start one gateway, as in production: set REDIS_URL and SECRET_KEY
	@$(RUN) gateway

worker: $(SYNCED) ## Start one worker, as in production: set REDIS_URL and SECRET_KEY
	@$(RUN) worker

bench: $(SYNCED) ## Measure this service beside plain arq and the bare graph; takes half an hour, 12 minutes of it for what must be met
	@$(RUN) bench

soak: $(SYNCED) ## Run 100,000 jobs and see that memory and keys stay flat; takes a quarter of an hour
	@$(RUN) bench soak

chaos: $(SYNCED) ## Kill gateways, workers and Valkey under load, for two minutes; reports/ gets the figures; CHAOS_SEED=… repeats a run
	@$(RUN) pytest tests/chaos --ignore=tests/chaos/long --junitxml=reports/chaos.xml

chaos-long: $(SYNCED) ## The same, and five minutes more of killing workers, also while they send 10,000 webhooks
	@$(RUN) pytest tests/chaos --junitxml=reports/chaos.xml

planted-bugs: $(SYNCED) ## Plant bugs into the scripts, one after the other, and print what finds each
	@$(RUN) tests.planted

deploy-test: $(SYNCED) ## Test the deployment files on the real programs: Supervisor, nginx, Prometheus, fail2ban, a new Debian
	@tests/deploy/get-programs.sh .tools/debian
	@$(RUN) pytest tests/deploy --numprocesses=3 --dist=loadfile --no-loadscope-reorder --junitxml=reports/deploy.xml

setup: $(SYNCED) ## Install the locked packages into .venv, which the other targets do by themselves

clean: ## Remove what was installed, cached and reported; data/ and .env stay
	rm -rf .venv .tools reports .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SYNCED) $(OWN_UV): export TMPDIR := $(CURDIR)/.tools/tmp

$(SYNCED): pyproject.toml uv.lock | interpreter $(filter $(OWN_UV),$(UV))
	@echo "Installing the locked packages into .venv"
	@mkdir -p "$$TMPDIR"
	@$(UV) sync --quiet --locked --python "$(INTERPRETER)"
	@touch $@

interpreter:
	@test -n "$(INTERPRETER)" || { echo "Python 3.11 or newer is needed, and $(PYTHON) is none: \
	install one, or name it: make PYTHON=python3.12 …" >&2; exit 2; }

# The second way is for Debian's bare python3, which makes no environments but may have pip.
$(OWN_UV): | interpreter
	@echo "Installing uv into .tools/uv"
	@rm -rf .tools/uv && mkdir -p "$$TMPDIR"
	@if "$(INTERPRETER)" -m venv .tools/uv >/dev/null 2>&1; then \
	  .tools/uv/bin/python -m pip install --quiet --no-cache-dir uv; \
	elif "$(INTERPRETER)" -m pip --version >/dev/null 2>&1; then \
	  rm -rf .tools/uv && "$(INTERPRETER)" -m pip install --quiet --no-cache-dir --target .tools/uv uv; \
	else \
	  echo "Python has no way to install uv. Give it one (Debian, Ubuntu: apt install python3-venv), \
	or install uv itself: https://docs.astral.sh/uv/" >&2; exit 2; \
	fi
