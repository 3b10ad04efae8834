# Every target installs what it needs into $(VENV) first. Override a variable on the command line:
#
#   make demo ARGS="episodes=20 seed=1"
#   make demo PIP_TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
#
# The second keeps pip from fetching PyTorch's CUDA build (gigabytes) on a machine that has no NVIDIA GPU.

PYTHON = python3
VENV = .venv
TORCH = torch==2.13.0
PIP_TORCH_ARGS =
TASK = cube_return
ARGS =
PYTEST_ARGS = -n 2 --dist loadfile --no-loadscope-reorder
MINUTES = 25
PACKAGES = planner world_model inverse_dynamics envs tasks

PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check

help:
	@echo 'make demo       install, then plan and act in four episodes with the shipped weights'
	@echo 'make play       install, then serve the page on which a person plays the world model'
	@echo 'make test       install what tests need, then run all but those that take longest; what a slow machine has'
	@echo '                not begun after MINUTES=$(MINUTES) is skipped'
	@echo 'make test-fast  the same in two minutes'
	@echo 'make test-all   the same with whole recipes, kills at every write and several processes'
	@echo 'make loop       collect a little, run the slow-fast loop on it, evaluate: 15 minutes on two cores'
	@echo 'make check      ruff and mypy, as the hooks before a commit'
	@echo 'make format     ruff, rewriting files'
	@echo 'make weights    collect data and train the weights that are shipped, at the tiny size (configs/recipe)'
	@echo 'make measure    video tables, 1,000-frame streams and speed into benchmarks/results: hours'
	@echo 'make install    only install, into $(VENV)'
	@echo 'make clean      delete $(VENV) and caches; keeps runs/'

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo '$(PYTHON) not found: install Python 3.11 or newer, or give PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed; give PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo '$(PYTHON) cannot make virtual environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PIP_TORCH_ARGS) '$(TORCH)'
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-play: $(VENV)/.installed
	$(PIP) install -e '.[play]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(PY) -m planner.run task=$(TASK) $(ARGS)

play: $(VENV)/.installed-play
	$(PY) -m planner.play task=$(TASK) $(ARGS)

test: $(VENV)/.installed-test
	$(PY) -m pytest -m 'not long' --minutes $(MINUTES) $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-test
	$(PY) -m pytest -m 'not slow and not long' $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pre_commit run --all-files

format: $(VENV)/.installed-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

RUNS = runs
weights: $(VENV)/.installed
	$(PY) -m planner.recipe task=$(TASK) runs=$(RUNS) $(ARGS)

SMALL = $(RUNS)/make_loop/$(TASK)
loop: $(VENV)/.installed
	$(PY) -m envs.collect task=$(TASK) episodes=96 path=$(SMALL)/data
	$(PY) -m world_model.slowfast_loop task=$(TASK) data=$(SMALL)/data iterations=8 outer.steps=12 batch_size=8 every=2 \
	  probe_episodes=2 run_dir=$(SMALL)/loop
	$(PY) -m planner.evaluate task=$(TASK) episodes=6 chunks=20 batch_size=6 \
	  "rows=[do_nothing,no_memory,temp_lora_no_loop,full]" loop_weights.temp_lora=$(SMALL)/loop/model \
	  run_dir=$(SMALL)/table results=$(SMALL) page=$(SMALL)/results.md

# What the video tables, long streams and speed are measured by; hours on two cores, and each command resumes.
TABLES = 1 4 5 6 9
SEEDS = 0 1 2
CLIPS = 100
RESULTS = benchmarks/results
measure: $(VENV)/.installed
	$(PY) -m benchmarks.chunk_speed --task $(TASK) --data data/$(TASK) --json $(RESULTS)/chunk_speed_$(TASK).json
	$(PY) -m benchmarks.long_stream --task $(TASK) --json $(RESULTS)/long_stream_$(TASK).json
	set -e; for seed in $(SEEDS); do for table in $(TABLES); do \
	  $(PY) -m world_model.evaluate task=$(TASK) table=$$table clips=$(CLIPS) seed=$$seed results=$(RESULTS); \
	done; done
	$(PY) -m planner.results

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install demo play test test-fast test-all check format weights loop measure clean
