# Sourced by the other scripts: `prepare EXTRA` makes .venv with solo-edge[EXTRA] and puts it first in PATH.

# The pins are for the Python that they were made with; elsewhere setup.py's lower bounds decide.
PINNED_PYTHON="3.11"

# Real NVIDIA parser and builder that works ahead of time without a GPU. The two packages together hold what
# is needed; their dependencies (gigabytes) are not.
RTX_PACKAGES=(tensorrt-rtx-cu13-bindings==1.7.1.116 onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0)

fail() {
    printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Sets up .venv in the current folder, the repository's root. Nothing is done twice: a stamp remembers what
# was installed from which description.
prepare() {
    local extra="$1" python="${PYTHON:-python3}" stamp wanted pins=()
    command -v "$python" >/dev/null || fail "no $python here; install Python 3.10 or later"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$python" --version) is too old; set PYTHON to a Python 3.10 or later"
    # The commands of an environment hold its absolute path: one that we made elsewhere is made anew.
    if [ -f .venv/made-in ] && [ "$(cat .venv/made-in)" != "$PWD" ]; then
        rm -rf .venv
    fi
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv || fail "cannot make .venv; on Debian and Ubuntu: apt install python3-venv"
        printf '%s' "$PWD" >.venv/made-in
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH

    stamp=".venv/installed-$extra"
    wanted="$(cat setup.py pyproject.toml scripts/constraints.txt scripts/environment.sh | sha256)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        if [ "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$PINNED_PYTHON" ]; then
            pins=(--constraint scripts/constraints.txt)
        fi
        echo "installing solo-edge[$extra]"
        python -m pip install --quiet --disable-pip-version-check ${pins[@]+"${pins[@]}"} --editable ".[$extra]"
        printf '%s' "$wanted" >"$stamp"
    fi
}

# Tests against NVIDIA's parser and builder skip themselves without it; with CI set it has to be there.
prepare_tensorrt_rtx() {
    local stamp=".venv/installed-tensorrt-rtx"
    [ "$(cat "$stamp" 2>/dev/null)" = "${RTX_PACKAGES[*]}" ] && return
    if python -m pip install --quiet --disable-pip-version-check --no-deps "${RTX_PACKAGES[@]}"; then
        printf '%s' "${RTX_PACKAGES[*]}" >"$stamp"
    elif [ -n "${CI:-}" ]; then
        fail "cannot install ${RTX_PACKAGES[*]}"
    else
        echo "note: no TensorRT-RTX for this machine; the tests that need it are skipped" >&2
    fi
}

sha256() {
    python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}
