# Each target sets up all that it needs: a fresh clone and Python 3.11 or later are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the prose linters read, in American spelling (`-D -` is codespell's own list). Code is checked for phrases only.
SPELLING := --builtin clear,rare,en-GB_to_en-US -D - -D docs/_lint/words.txt --skip '*/_lint/*' --ignore-regex '`[^`]+`'
PROSE := README.md CHANGELOG.md CONTRIBUTING.md RELEASING.md CODE_OF_CONDUCT.md SECURITY.md deploy/README.md docs twincar_edge/assets/lite0-cars196.md

.PHONY: demo test test-slow lint setup lock sbom demo-assets bundled-model clean docs

demo: $(VENV)/.demo
	$(BIN)/twincar-edge demo

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p twincar_edge
	$(BIN)/codespell $(SPELLING) $(PROSE)
	$(BIN)/python docs/_lint/phrases.py $(PROSE) twincar_edge training export runtime benchmarks

# Strict: a broken link, a missing anchor or a page outside the navigation fails.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

setup: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The base and one ONNX Runtime, as an edge box has them: no torch.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	test -e $(VENV)/.dev || $(BIN)/python -m pip install --quiet -e '.[cpu]'
	touch $@

# Pinned with hashes: what CI tested is what everybody installs.
$(VENV)/.dev: pyproject.toml requirements/dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	touch $@

# Writes requirements/ again: a lock for each extra that an image may have, and for CI, for every platform and Python. What
# pyproject.toml still allows keeps its version, except with `make lock UPGRADE=--upgrade`.
BOXES := cpu gpu openvino clips page sign cluster ray kuberay train
UPGRADE :=
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-index-url \
	--no-emit-find-links
lock: $(VENV)/.dev
	$(LOCK) $(UPGRADE) --extra dev -o requirements/dev.txt pyproject.toml > /dev/null
	echo setuptools | $(LOCK) -c requirements/dev.txt --python-version 3.11 -o requirements/build.txt - > /dev/null
	for extra in $(BOXES); do \
		$(LOCK) $(UPGRADE) -c requirements/dev.txt --extra $$extra -o requirements/$$extra.txt pyproject.toml > /dev/null || exit 1; \
	done

# Writes a bill of materials of each image in CycloneDX's JSON, from the lock.
sbom: $(VENV)/.dev
	mkdir -p dist
	for extra in $(BOXES); do \
		$(BIN)/cyclonedx-py requirements requirements/$$extra.txt --pyproject pyproject.toml --output-reproducible --of JSON \
			-o dist/twincar-edge-$$extra.cdx.json || exit 1; \
	done

# Makes the bundled model and clip again, about half an hour on 2 cores. The drawn cars, the split and the order of training
# follow from the seeds.
demo-assets: $(VENV)/.dev
	$(BIN)/twincar-edge synthesize images build/twins --overwrite --per-class 700 --seed 0
	$(BIN)/twincar-edge train build/twins -o build/twins-run --overwrite --recipe lite0-twins
	$(BIN)/twincar-edge export build/twins-run/best.pt -o build/twins-onnx --name twins --int8 --target x86-avx2 \
		--temperature 1 --reject-below 0.6 \
		--notes "$$(cat twincar_edge/assets/twins.notes.txt)"
	$(BIN)/twincar-edge synthesize clip build/gate.mp4 --overwrite --passes 16 --seed 2
	cp build/twins-onnx/twins.int8.onnx twincar_edge/assets/twins.onnx
	cp build/gate.json twincar_edge/assets/gate.json
	"$$($(BIN)/python -c 'import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())')" -y -loglevel error \
		-i build/gate.mp4 -c:v libx264 -preset medium -crf 27 -pix_fmt yuv420p -movflags +faststart \
		twincar_edge/assets/gate.mp4

# Makes the default model again from the official training images of Stanford Cars 196, in two folders in the CSV layout with
# the same class mapping: CARS196, which it learns from, and CARS196_MORE, which is held out for thresholds and figures. Seven
# hours on 2 cores, minutes on a GPU. START names the weights to continue; they must not have learned from CARS196_MORE. Seven
# trainings continue them, the second from the first, the others each with another seed, the last two on wider crops; their mean
# is the model. The ONNX file is exported from the very weights that are bundled beside it, in half precision.
CARS196 ?= cars196
CARS196_MORE ?= cars196_more
RUN := build/lite0-cars196
START ?= $(RUN)/start/twin_car_best_model.safetensors
TRAIN := $(BIN)/twincar-edge train $(CARS196) --overwrite
CONTINUE := $(TRAIN) --recipe lite0-cars196-continued
WIDE := --set 'size=[256,192]' --set train_size=160 --set first_train_size=128 --set epochs=20
$(RUN)/start/twin_car_best_model.safetensors: | $(VENV)/.dev    # written once the training is complete
	$(TRAIN) -o $(RUN)/start --recipe lite0-cars196
bundled-model: $(CARS196)/labels.csv $(CARS196_MORE)/labels.csv $(START) | $(VENV)/.dev
	$(CONTINUE) -o $(RUN)/1 --weights $(START)
	$(CONTINUE) -o $(RUN)/2 --weights $(RUN)/1/twin_car_best_model.safetensors
	$(CONTINUE) -o $(RUN)/3 --weights $(START) --set seed=1
	$(CONTINUE) -o $(RUN)/4 --weights $(START) --set seed=2
	$(CONTINUE) -o $(RUN)/5 --weights $(START) --set seed=3
	$(CONTINUE) -o $(RUN)/6 --weights $(START) --set seed=4 $(WIDE)
	$(CONTINUE) -o $(RUN)/7 --weights $(START) --set seed=5 $(WIDE)
	$(BIN)/python -m twincar_edge.training.average $(RUN)/5/average.pt $(foreach run,1 2 3 4 5 6 7,$(RUN)/$(run)/best.pt)
	$(BIN)/python -m twincar_edge.training.halve $(RUN)/5/average.pt $(RUN)/5/lite0-cars196.safetensors
	$(BIN)/twincar-edge export $(RUN)/5/lite0-cars196.safetensors -o build --name lite0-cars196 --data $(CARS196_MORE) \
		--int8 --target x86-avx2 --float-layers 3 --max-top1-drop 0.2 --min-agreement 99 --min-sure-agreement 100 \
		--reject-below 0.5 --keep-known 0.88 0.88 0.91 --notes "$$(cat twincar_edge/assets/lite0-cars196.notes.txt)"
	cp build/lite0-cars196.int8.onnx twincar_edge/assets/lite0-cars196.onnx
	cp $(RUN)/5/lite0-cars196.safetensors twincar_edge/assets/

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
