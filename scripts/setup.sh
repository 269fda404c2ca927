#!/usr/bin/env bash
# Make .venv, install the locked packages and this project, compile the window kernels. Safe to run again:
# each step leaves a stamp of what it was made from, and is skipped while that has not changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# A name on the path proves nothing (it may be a shim that only prints an error): run it, and ask it for all
# that is needed of it.
usable() {
    "$1" -c 'import sys, venv, ensurepip
v = sys.version_info
assert sys.implementation.name == "cpython" and v[:2] in ((3, 11), (3, 12))
print("%d.%d.%d" % v[:3])' 2>/dev/null
}

find_python() {
    local candidates=(python3.12 python3.11 python3 python) candidate version
    if [ -n "${LOOKBACK_PYTHON:-}" ]; then candidates=("$LOOKBACK_PYTHON"); fi
    # Also what the path holds behind a broken first match, and what pyenv holds without having it on the path.
    for candidate in "${candidates[@]}"; do
        while IFS= read -r found; do
            if version=$(usable "$found"); then python=$found; python_version=$version; return; fi
        done < <(type -aP "$candidate" 2>/dev/null; true)
    done
    if [ -z "${LOOKBACK_PYTHON:-}" ]; then
        for found in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[12]*/bin/python /opt/homebrew/bin/python3.1[12]; do
            if [ -x "$found" ] && version=$(usable "$found"); then python=$found; python_version=$version; return; fi
        done
    fi
    if [ -n "${LOOKBACK_PYTHON:-}" ]; then
        fail "LOOKBACK_PYTHON=$LOOKBACK_PYTHON is no CPython 3.11 or 3.12 with the venv module; name another one"
    fi
    fail "no CPython 3.11 or 3.12 with the venv module found; install one (Debian: apt install python3 python3-venv) or name it: make setup LOOKBACK_PYTHON=/path/to/python3.12"
}

stamp_of() { cat "$@" | cksum | tr ' ' '-'; }
stamped() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

packages_stamp=$(stamp_of requirements.lock pyproject.toml)-$(pwd | cksum | tr ' ' '-')
kernels_stamp=$(stamp_of lookback/windows/*.py lookback/stores/redis_pack.py connectors/json_*.py state/key_table.py dataflows/repeats.py)-$packages_stamp
if stamped .venv/.packages "$packages_stamp" && stamped .venv/.kernels "$kernels_stamp" \
    && usable .venv/bin/python >/dev/null && [ -x .venv/bin/lookback ]; then
    say "nothing to do: .venv holds what requirements.lock names (CPython $(usable .venv/bin/python))"
    exit 0
fi

if ! usable .venv/bin/python >/dev/null; then
    find_python
    say "1/4 making .venv with CPython $python_version ($python)"
    rm -rf .venv
    "$python" -m venv .venv
else
    say "1/4 keeping .venv (CPython $(usable .venv/bin/python))"
fi

if stamped .venv/.packages "$packages_stamp"; then
    say "2/4 packages are as requirements.lock names them"
    say "3/4 the project is installed"
else
    total=$(grep -c '==' requirements.lock)
    say "2/4 installing $total locked packages (a minute or two)"
    log=.venv/install.log
    if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --no-deps --require-hashes \
        -r requirements.lock 2>&1 | tee "$log" | awk -v total="$total" -v tty="$([ -t 1 ] && echo 1 || echo 0)" '
            /^(Collecting|Requirement already satisfied)/ { n++; name = $2; if ($1 == "Requirement") name = $4
                if (tty) printf "\r       %d of %d: %-40s", n, total, substr(name, 1, 40)
                else if (n % 10 == 0) printf "       %d of %d\n", n, total
                fflush() }
            /^Installing collected/ { printf "%s       unpacking\n", tty ? "\r" : ""; fflush() }'
    then
        tail -n 15 "$log" >&2
        fail "pip could not install the packages (its last lines are above, all of them in $log)"
    fi
    say "3/4 installing the project"
    if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps \
        --no-build-isolation -e . >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "pip could not install the project (its last lines are above)"
    fi
    printf '%s\n' "$packages_stamp" > .venv/.packages
fi

say "4/4 compiling the kernels (once; about a minute)"
.venv/bin/python -m scripts.warm
printf '%s\n' "$kernels_stamp" > .venv/.kernels
say "done. Next: make demo"
