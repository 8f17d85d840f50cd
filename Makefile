# Each target sets up all that it needs: a fresh clone and Python 3.11 or later are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint setup demo-assets bundled-model clean

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

setup: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The base and one ONNX Runtime, as an edge box has them: no torch.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	test -e $(VENV)/.dev || $(BIN)/python -m pip install --quiet -e '.[cpu]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

# Makes the bundled model and clip again, about half an hour on 2 cores. The drawn cars, the split and the order of training
# follow from the seeds.
demo-assets: $(VENV)/.dev
	$(BIN)/twincar-edge synthesize images build/twins --per-class 700 --seed 0
	$(BIN)/twincar-edge train build/twins -o build/twins-run --overwrite --recipe lite0-twins
	$(BIN)/twincar-edge export build/twins-run/best.pt -o build/twins-onnx --name twins --int8 --target x86-avx2 \
		--temperature 1 --reject-below 0.6 \
		--notes "$$(cat twincar_edge/assets/twins.notes.txt)"
	$(BIN)/twincar-edge synthesize clip build/gate.mp4 --passes 16 --seed 2
	cp build/twins-onnx/twins.int8.onnx twincar_edge/assets/twins.onnx
	cp build/gate.json twincar_edge/assets/gate.json
	"$$($(BIN)/python -c 'import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())')" -y -loglevel error \
		-i build/gate.mp4 -c:v libx264 -preset medium -crf 27 -pix_fmt yuv420p -movflags +faststart \
		twincar_edge/assets/gate.mp4

# Makes the default model again from Stanford Cars 196, in any layout that `twincar-edge train` takes. Two hours on 2 cores,
# minutes on a GPU. The ONNX file is exported from the very weights that are bundled beside it, in half precision.
CARS196 ?= cars196
RUN := build/lite0-cars196
bundled-model: $(VENV)/.dev
	$(BIN)/twincar-edge train $(CARS196) -o $(RUN) --overwrite --recipe lite0-cars196
	$(BIN)/python -m twincar_edge.training.halve $(RUN)/best.pt $(RUN)/lite0-cars196.safetensors
	$(BIN)/twincar-edge export $(RUN)/lite0-cars196.safetensors -o build --name lite0-cars196 --int8 \
		--target x86-avx2 --max-top1-drop 0.2 --min-agreement 99 --min-sure-agreement 100 \
		--reject-below 0.5 --keep-known 0.88 0.88 0.91 \
		--notes "$$(cat twincar_edge/assets/lite0-cars196.notes.txt)"
	cp build/lite0-cars196.int8.onnx twincar_edge/assets/lite0-cars196.onnx
	cp $(RUN)/lite0-cars196.safetensors twincar_edge/assets/

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
