#!/bin/sh
# Create the virtual environment $1, and install the locked versions and this project into it.
# Each failure prints one line: what failed, and what to do next.
set -u
venv=$1

fail() {
    echo "error: $1 → $2" >&2
    exit 1
}

fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
python=
for candidate in ${PYTHON:-} python3 python python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$fits" 2>/dev/null; then
        python=$(command -v "$candidate")
        break
    fi
done
if [ -z "$python" ]; then
    found=$(python3 --version 2>&1 || true)
    fail "no Python 3.11, 3.12 or 3.13 found (python3 is: ${found:-missing})" \
        "install one, or name it: make PYTHON=/path/to/python3.11"
fi

# About 1.3 GB are written. A disk that fills up half way leads to errors that are hard to read.
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
if [ "${free:-9999999}" -lt 2000000 ]; then
    fail "only $((free / 1024)) MB are free here, 2,000 are needed" "free some space, then run make again"
fi

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c "$fits" 2>/dev/null; then
    echo "creating $venv with $("$python" --version)" >&2
    rm -rf "$venv"
    if command -v uv >/dev/null 2>&1; then
        uv venv -q --python "$python" "$venv" || fail "uv could not create $venv" "see the lines above"
    else
        "$python" -m venv "$venv" >/dev/null ||
            fail "$python cannot create virtual environments" "install its venv module (Debian: python3-venv), or uv"
    fi
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    uv="$venv/bin/uv"
    if [ ! -x "$uv" ]; then
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock ||
            fail "pip could not install uv" "check the network and pip's settings, then run make again"
    fi
fi

# Compile now: the Prefect server alone takes 8 s longer to start if it has to compile itself.
echo "installing $(grep -c '^[a-z].*==' requirements.lock) locked packages" >&2
"$uv" pip install -q --python "$venv/bin/python" --require-hashes --compile-bytecode -r requirements.lock ||
    fail "the locked packages could not be installed" "check the network and the lines above, then run make again"
"$uv" pip install -q --python "$venv/bin/python" --no-deps --no-build-isolation -e . ||
    fail "this project could not be installed into $venv" "see the lines above"
# As the locked packages above: each command, lane and replica is a process that imports it.
"$venv/bin/python" -m compileall -q blocks serve_apps flows deployments
