#!/usr/bin/env bash
# Write requirements.lock anew: exact, hashed pins for CPython 3.11 and 3.12, and no address of any index.
# Needs uv (pip install uv). The uv.lock it makes on the way holds addresses, so it stays in a scratch folder.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp pyproject.toml README.md LICENSE "$scratch"
mkdir "$scratch"/{lookback,state,connectors,dataflows}
uv=$(command -v .venv/bin/uv uv | head -n 1) || { echo "lock: no uv found; install it with: .venv/bin/pip install uv" >&2; exit 1; }
uv=$(realpath "$uv")
(
    cd "$scratch"
    "$uv" lock --quiet
    "$uv" export --quiet --extra job --extra avro --extra redis --extra dev --no-emit-project --no-header --no-annotate \
        --format requirements-txt --output-file requirements.lock >/dev/null
)
if grep -nE 'https?:|^ *-(i|f)|index|find-links' "$scratch/requirements.lock"; then
    echo "lock: the lines above hold an address; requirements.lock is left as it was" >&2
    exit 1
fi
cp "$scratch/requirements.lock" requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"
