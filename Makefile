# Everything a person needs: `make serve` runs the avatar server, `make test` runs the whole suite.
# Both create the environment (.venv) on first use and again when pyproject.toml changes.

HOST ?= 127.0.0.1
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The last release that carries its face-mesh models inside the wheel; see pyproject.toml.
MEDIAPIPE := mediapipe==0.10.21
MEDIAPIPE_PROTOBUF := protobuf<5
TORCH := 2.13.0
WERIFT := werift@0.25.2
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
ROOT := $(shell [ "$$(id -u)" = 0 ] && command -v apt-get)

export HOST PORT

.PHONY: help install serve test adapters test-adapters lint clean debian-packages
.DEFAULT_GOAL := help

help:
	@echo "make serve    the avatar server and its page, on http://$(HOST):$(PORT) (HOST=, PORT= are honoured)"
	@echo "make test     lint, types and the whole test suite"
	@echo "make install  the environment alone, in $(VENV)"
	@echo "make lint     ruff, mypy and the import contracts"

install: $(VENV)/.installed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  test -n "$(ROOT)" && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); } \
	  || { echo "$(PYTHON) cannot create environments; install its venv package (Debian: python3-venv)"; exit 1; }

$(VENV)/.installed: pyproject.toml Makefile | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) --editable . "$(MEDIAPIPE_PROTOBUF)"
	@$(PIP) --no-deps $(MEDIAPIPE)
	@touch $@

serve: install
	@$(BIN)/kdtalker serve --host $(HOST) --port $(PORT)

# Tests and training use torch on the CPU: ask for that build by its name, else whatever the index gives.
$(VENV)/.tests: $(VENV)/.installed
	@$(PIP) "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) torch
	@$(PIP) --editable ".[test,train,kdtalker,cluster]" "$(MEDIAPIPE_PROTOBUF)"
	@touch $@

# Chromium drives the page, espeak-ng speaks. Without root the tests that need them say why they were left out.
debian-packages:
	@if command -v chromium >/dev/null && command -v espeak-ng >/dev/null; then :; \
	elif [ -n "$(ROOT)" ]; then apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium espeak-ng >/dev/null; \
	else echo "Chromium or espeak-ng is missing and only root can install them: the tests that need them will be left out"; fi
	@# A TURN server and a proxy, where nobody minds that Debian starts them on installing.
	@if [ -n "$$CI" ] && [ -n "$(ROOT)" ] && ! { command -v turnserver && command -v nginx && \
	    test -e /usr/lib/nginx/modules/ngx_rtmp_module.so; } >/dev/null; then \
	  apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends coturn nginx-light libnginx-mod-rtmp >/dev/null; fi

# The WebRTC endpoint that the presenter is tried against.
$(VENV)/.whip: Makefile | $(BIN)/python
	@if command -v npm >/dev/null; then npm install --silent --no-save --prefix $(VENV)/whip $(WERIFT); fi; \
	if [ -d $(VENV)/whip/node_modules/werift ]; then touch $@; \
	else echo "npm cannot install werift: the tests that publish to a foreign WHIP endpoint will be left out"; fi

# LiveKit and Pipecat want other releases than the tests beside them (protobuf, soundfile): an environment of their own.
adapters: $(VENV)/adapters/.installed

$(VENV)/adapters/.installed: pyproject.toml Makefile | $(BIN)/python
	@echo "Installing LiveKit and Pipecat into $(VENV)/adapters ..."
	@$(PYTHON) -m venv $(VENV)/adapters
	@$(VENV)/adapters/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[adapters]" pytest pytest-asyncio pytest-timeout pytest-xdist
	@$(VENV)/adapters/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(MEDIAPIPE)
	@touch $@

test: $(VENV)/.tests $(VENV)/.whip debian-packages lint
	@$(BIN)/python -m pytest -n 2 --dist loadgroup
	@if [ -z "$$CI" ]; then echo "The tests of LiveKit and Pipecat were left out: make test-adapters"; \
	elif $(MAKE) --no-print-directory adapters; then $(MAKE) --no-print-directory test-adapters; \
	else echo "LiveKit or Pipecat cannot be installed here: their tests were left out"; fi

# What the frameworks themselves warn of is no error of ours.
test-adapters: adapters
	@$(VENV)/adapters/bin/python -m pytest -o filterwarnings=default tests/adapters

lint: $(VENV)/.tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@for api in v10 v11; do MYPYPATH=tests/data/tensorrt_stubs/$$api \
	  $(BIN)/mypy --strict engines/runtime/tensorrt.py export/to_tensorrt.py export/refit.py || exit 1; done
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
