#!/bin/sh
# Says the message of the event; nothing is left in $TMP_OUTPUT_DIR, so what is said is the answer.
set -eu

case "${INPUT_TYPE:-json}" in
    json) message=$(jq --raw-output '.message' "$INPUT_FILE_PATH") ;;
    *) message=$(cat "$INPUT_FILE_PATH") ;;
esac
cowsay -- "$message"
