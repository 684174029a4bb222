# make demo    train, evaluate and infer on synthetic cases, in a few minutes
# make demo BUNDLE=ossnet_lits   the same with another bundle than ossnet_brats (or nvnet_brats); likewise overfit
# make demo DATA=folder   the same on labelled cases of your own, with a bundle planned for them and for MINUTES=10 of training (NETWORK=nvnet: of NvNet)
# make overfit DATA=case   train on one real case alone and score it: does the whole path learn?
# make test    the test suite but for its slow tests, a process for each core (JOBS=1: one after another)
# make test-slow   the slow tests: kills, ONNX, several processes, commands of the documentation
# make torture   kills trainings at random moments, many times (KILLS=200 of each bundle), and compares their ends; and NvNet's 1,000 worst steps
# make test-label   the bundles in a MONAI Label server, in an environment of its own (.venv-label)
# make lint    style and types
# make docs    the documentation as a site that opens offline, site/index.html; its links are checked
# make bench   measurements of speed and memory, written to benchmarks/results
# make bench-accuracy   networks compared on synthetic cohorts (hours)
# make venv    just the virtual environment, which the others make too when there is none

PYTHON ?= python3
BUNDLE ?= ossnet_brats
NETWORK ?= ossnet
MINUTES ?= 10
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
LABEL  := .venv-label
JOBS   ?= logical
LABEL_READY := $(LABEL)/.ready
CONFIG := bundles/$(BUNDLE)/configs
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL_LABEL = $(subst constraints.txt,$(LABEL)/constraints.txt,$(INSTALL))

# A bundle's synthetic cases, and how its demo scores (occupancy networks are queried at every voxel; the default search
# would pass over small false positives).
PHANTOMS_ossnet_brats := brats --cases 40 --shape 96 96 64
PHANTOMS_ossnet_lits  := lits --cases 30 --spacing 3.5
PHANTOMS_nvnet_brats  := $(PHANTOMS_ossnet_brats)
EVAL_KEYS_ossnet_brats := --inferer_mode dense
EVAL_KEYS_ossnet_lits  := --inferer_mode dense

ifdef DATA
DEMO        := demo/own_data
DEMO_DATA   := $(DATA)
DEMO_CONFIG := $(DEMO)/bundle/configs
SPLIT_KEYS  := --test 0.2
EVAL_KEYS   := --evaluation_section test
else
DEMO        := demo/$(BUNDLE)
PHANTOMS    := $(PHANTOMS_$(BUNDLE))
DEMO_DATA   := demo/phantoms/$(firstword $(PHANTOMS))
DEMO_CONFIG := $(CONFIG)
DEMO_JSON   := ,'$(CONFIG)/demo.json'
EVAL_KEYS   := $(EVAL_KEYS_$(BUNDLE))
endif
OVERFIT := demo/$(BUNDLE)_overfit
RUN  := $(BIN)/python -W ignore::UserWarning -W ignore::FutureWarning -m monai.bundle run
# a process for each core, and a thread for each process: small convolutions gain nothing from more
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)
KEYS := --dataset_dir "$(DEMO_DATA)" --ckpt_dir $(DEMO)/models

.PHONY: venv demo overfit test test-slow torture test-label lint docs bench bench-accuracy clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: Python 3.10 or newer is needed; give one with make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first: a later package would otherwise choose a build of its own
	@$(BIN)/python $(INSTALL) torch
	@$(BIN)/python $(INSTALL) -e ".[outputs,dev]"
	@touch $@

demo: $(READY)
ifndef DATA
	@echo "== 1/4 synthetic cases"
	@$(BIN)/custom-nets phantom $(firstword $(PHANTOMS)) $(DEMO_DATA) $(wordlist 2,99,$(PHANTOMS)) --seed 0
else
	@echo "== 1/4 a bundle planned for your cases"
	@rm -rf $(DEMO)/bundle
	@$(BIN)/custom-nets new bundle --data "$(DATA)" --network $(NETWORK) --minutes $(MINUTES) --folder $(DEMO)
endif
	@echo "== 2/4 training (python -m monai.bundle run training …)"
	@$(RUN) training --config_file "['$(DEMO_CONFIG)/train.json'$(DEMO_JSON)]" $(KEYS) $(SPLIT_KEYS) --output_dir $(DEMO)/run
	@echo "== 3/4 evaluation on cases that training never saw, every voxel of the native grid"
	@$(RUN) evaluating --config_file "['$(DEMO_CONFIG)/train.json','$(DEMO_CONFIG)/evaluate.json'$(DEMO_JSON)]" $(KEYS) \
		$(SPLIT_KEYS) --output_dir $(DEMO)/run $(EVAL_KEYS)
	@echo "== 4/4 inference: labels, meshes, volumes, pictures"
	@$(RUN) inferring --config_file "['$(DEMO_CONFIG)/inference.json'$(DEMO_JSON)]" $(KEYS) \
		--output_dir $(DEMO)/results --split_file $(DEMO)/run/split.json
	@echo
	@$(BIN)/custom-nets scores $(DEMO)/run/metrics.json
	@echo "scores of each case: $(DEMO)/run/metrics.csv"
	@echo "labels (.nii.gz), meshes (.obj), volumes (.json), pictures (.png) of each case: $(DEMO)/results/"
	@test ! -f $(DEMO)/run/reconstruction.png \
		|| echo "what the variational branch made of its last training image: $(DEMO)/run/reconstruction.png"
	@echo "model: $(DEMO)/models/model.pt (trained for this demonstration only)"

overfit: $(READY)
ifndef DATA
	$(error name the folder of one case: make overfit DATA=folder)
endif
	@echo "== 1/2 training on one case, scored on every voxel of it (an overfit check)"
	@$(RUN) training --config_file "['$(CONFIG)/train.json','$(CONFIG)/overfit.json']" \
		--dataset_dir "$(DATA)" --ckpt_dir $(OVERFIT)/models --output_dir $(OVERFIT)/run
	@echo "== 2/2 inference: labels, meshes, volumes, pictures"
	@$(RUN) inferring --config_file "['$(CONFIG)/inference.json','$(CONFIG)/overfit.json']" \
		--dataset_dir "$(DATA)" --ckpt_dir $(OVERFIT)/models --output_dir $(OVERFIT)/results
	@echo "scores: $(OVERFIT)/run/training.jsonl   results: $(OVERFIT)/results/"

test: $(READY)
	@echo "== tests"
	@$(PYTEST) -m "not slow" --dist loadfile

test-slow: $(READY)
	@echo "== slow tests"
	@$(PYTEST) -m slow --dist worksteal

torture: $(READY)
	@echo "== kills, and steps that turned NaN once"
	@TORTURE=$(or $(KILLS),200) $(BIN)/python -m pytest tests/robust/test_kills.py \
		tests/networks/nvnet/test_network.py

test-label: $(READY) $(LABEL_READY)
	@echo "== tests in MONAI Label"
	@MONAI_LABEL=$(LABEL)/bin $(BIN)/python -m pytest tests/label

$(LABEL_READY): tests/label/requirements.txt tests/label/torchvision_operators.py constraints.txt
	@echo "== setting up $(LABEL) (once)"
	@test -x $(LABEL)/bin/python || $(PYTHON) -m venv $(LABEL)
	@# all versions but pydicom's, of which MONAI Label wants an older one
	@grep -v '^pydicom' constraints.txt > $(LABEL)/constraints.txt
	@$(LABEL)/bin/python $(INSTALL_LABEL) torch
	@$(LABEL)/bin/python $(INSTALL_LABEL) -r tests/label/requirements.txt
	@$(LABEL)/bin/python $(INSTALL_LABEL) --no-deps \
		monailabel==0.8.5 pydicom-seg==0.4.1 torchvision==0.28.0
	@site=$$($(LABEL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		&& cp tests/label/torchvision_operators.py $$site && echo "import torchvision_operators" > $$site/torchvision_operators.pth
	@$(LABEL)/bin/python -c "import monailabel.app"
	@touch $@

lint: $(READY)
	@echo "== style and types"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(READY)
	@echo "== documentation"
	@$(BIN)/python $(INSTALL) -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "the site: site/index.html"

bench: $(READY)
	@echo "== measurements"
	@for name in query_counts patches pade training_step end_to_end; do echo "-- $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

bench-accuracy: $(READY)
	@$(BIN)/python $(INSTALL) -e ".[bench]"
	@for script in "cohort.py --seed 1 --test 16" surface_error.py memory.py accuracy.py ablation.py; do \
		echo "-- $$script"; $(BIN)/python benchmarks/$$script || exit 1; done

clean:
	rm -rf demo build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
