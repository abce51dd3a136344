#!/bin/sh
# Leaves two files in $TMP_OUTPUT_DIR, which are answered as one archive.
set -eu

echo "$OSCAR_SERVICE_NAME was called with $(basename "$INPUT_FILE_PATH")"
{
    echo "$GREETING"
    wc -c < "$INPUT_FILE_PATH"
} > "$TMP_OUTPUT_DIR/about.txt"
cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/input"
