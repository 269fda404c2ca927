#!/usr/bin/env bash
# Write the lock files anew: exact, hashed pins for CPython 3.11 and 3.12, and no address of any index.
# requirements.lock is all, for working on the project; -image is what the image runs with, -build what builds a wheel.
# Needs uv (pip install uv). The uv.lock it makes on the way holds addresses, so it stays in a scratch folder.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp pyproject.toml README.md LICENSE "$scratch"
mkdir "$scratch"/{lookback,state,connectors,dataflows}
uv=$(command -v .venv/bin/uv uv | head -n 1) || { echo "lock: no uv found; install it with: .venv/bin/pip install uv" >&2; exit 1; }
uv=$(realpath "$uv")
export_to() {
    local lock=$1
    shift
    (cd "$scratch" && "$uv" export --quiet --frozen --no-emit-project --no-header --no-annotate --no-default-groups \
        --format requirements-txt --output-file "$lock" "$@" >/dev/null)
    if grep -nE 'https?:|^ *-(i|f)|index|find-links' "$scratch/$lock"; then
        echo "lock: the lines above hold an address; the lock files are left as they were" >&2
        exit 1
    fi
}
(cd "$scratch" && "$uv" lock --quiet)
export_to requirements.lock --extra job --extra avro --extra redis --extra dev
export_to requirements-image.lock --extra job --extra avro --extra redis
export_to requirements-build.lock --only-group build
for lock in requirements.lock requirements-image.lock requirements-build.lock; do
    cp "$scratch/$lock" "$lock"
    echo "$lock: $(grep -c '==' "$lock") packages"
done
