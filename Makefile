# `make demo` sets up and runs the main job; `make test` sets up and passes the tests. Neither needs the other first.
PYTHON ?= python3
BIN := .venv/bin
BUNDLE := models/minilm-l6

.PHONY: demo test docs format clean

demo: $(BUNDLE)/bundle.json
	$(BIN)/mpt-edge tasks list
	$(BIN)/mpt-edge run --task sst2 "a gorgeous, witty, seductive movie"
	$(BIN)/mpt-edge run --input models/recipes/demo.jsonl
	$(BIN)/mpt-edge bench

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

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv site $(BUNDLE)/bundle.json $(BUNDLE)/onnx $(BUNDLE)/tokenizer.json
