#!/usr/bin/env bash
# Install kubectl, kubernetes-validate and checkov for the tests of the manifests, once, as tools.lock names them, and
# print the folder of their programs. They have an environment of their own, outside the repository, in
# ~/.cache/lookback (XDG_CACHE_HOME/lookback): checkov's packages would decide over the job's. Nothing is fetched later.
# With --there: install nothing; print the folder if it is complete, else fail.
# tools.lock is made of tools.in with: uv pip compile --universal --python-version 3.11 --generate-hashes --no-header
#   --no-annotate --no-emit-index-url tests/deploy/tools.in -o tests/deploy/tools.lock
set -euo pipefail
cd "$(dirname "$0")"
python=../../.venv/bin/python
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lookback
folder=$cache/manifest-tools-$({ cat tools.lock; "$python" -V; } | cksum | cut -d ' ' -f 1)
if [ ! -e "$folder/complete" ]; then
    if [ "${1:-}" = --there ]; then exit 1; fi
    rm -rf "$folder"
    mkdir -p "$cache"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --no-deps --require-hashes \
        -r tools.lock >&2
    touch "$folder/complete"
fi
echo "$folder/bin"
