#!/bin/sh
# Leaves one file in $TMP_OUTPUT_DIR, which is the answer.
set -eu

convert "$INPUT_FILE_PATH" -colorspace Gray "png:$TMP_OUTPUT_DIR/gray.png"
