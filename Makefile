# Every target works from a fresh clone. GNU make 3.81 or newer (the one that macOS ships).
#
#   make test PY=python3       use an existing Python and install nothing (a container, no network)
#   make test TORCH=2.11.0     another torch, with the triton that it names
#   make test ARGS="-k routing"

PY    ?=
TORCH ?=
ARGS  ?=
PORT  ?= 8000

ifeq ($(PY),)
PYTHON := .venv/bin/python
else
PYTHON := $(PY)
# lorakit is not installed there. Kernels and test workers find it by this path.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
endif

# Any python3 may run the set-up tool: it looks for one in range by itself.
SETUP = @python=$$(command -v python3 || command -v python3.13 || command -v python3.12 \
	|| command -v python3.11 || command -v "$(PYTHON)") || { \
	echo "setup: no python3 on PATH: install Python 3.11 to 3.13." >&2; exit 1; }; \
	"$$python" tools/bootstrap.py --py "$(PY)" --torch "$(TORCH)" --for

.DEFAULT_GOAL := help
.PHONY: help book serve test notebooks bench doctor clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\	/p' Makefile | while IFS='	' read -r target text; do \
		printf '  make %-10s %s\n' "$$target" "$$text"; done

# A fresh build each time: an incremental one does not repeat the warnings of unchanged pages.
book: ## render the book to _build/html, warnings as errors
	$(SETUP) book
	@rm -rf _build/html _build/.doctrees _build/jupyter_execute
	@"$(PYTHON)" -c 'from jupyter_book.cli.main import main; main()' build . -W -n --keep-going $(ARGS)
	@echo 'The book is ready: open _build/html/index.html, or run "make serve".'

serve: ## serve the rendered book on http://127.0.0.1:8000 (PORT=...)
	@test -f _build/html/index.html || { echo 'serve: no book yet: run "make book" first.' >&2; exit 1; }
	@"$(PYTHON)" -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
		echo 'serve: port $(PORT) is taken: choose another, as in "make serve PORT=8001".' >&2; exit 1; }
	@echo 'Serving http://127.0.0.1:$(PORT)/ (stop with Ctrl-C)'
	@exec "$(PYTHON)" -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: ## run every test that this machine can run (ARGS="-k routing")
	$(SETUP) test
	@"$(PYTHON)" -m pytest --nbval-lax --nbval-current-env -n auto --dist loadfile $(ARGS)

notebooks: ## execute the chapters on a GPU and record their outputs
	$(SETUP) notebooks
	@"$(PYTHON)" tools/record.py $(ARGS)
	@"$(PYTHON)" tools/picture.py

bench: ## measure on a GPU and write benchmarks/results
	$(SETUP) bench
	@for part in routing lora_decode lora_layer lora_prefill lora_shapes; do \
		"$(PYTHON)" -m benchmarks.$$part || exit 1; done

doctor: ## check this machine before a workshop
	$(SETUP) doctor
	@"$(PYTHON)" -m lorakit.doctor

clean: ## remove what was built and cached (.venv stays: remove it by hand)
	@rm -rf _build .pytest_cache .hypothesis .jupyter_cache lorakit.egg-info
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
