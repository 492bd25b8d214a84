# Sourced by the other scripts: finds a Python, makes a virtual environment, installs into it.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

# The newest Python of 3.10-3.13 that can make virtual environments; PYTHON overrides.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10-3.13 with venv found; install one, or name it: PYTHON=/path/to/python $0"
}

# use_environment FOLDER: the active virtual environment, or one in FOLDER. Sets $python.
use_environment() {
    if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        python=$VIRTUAL_ENV/bin/python
        return
    fi
    local base
    base=$(find_python) || exit 1
    if ! [ -x "$1/bin/python" ]; then
        say "making $1 with $("$base" --version)"
        "$base" -m venv "$1"
    fi
    python=$PWD/$1/bin/python
}

has_compiler() {
    local name
    for name in cc c++ gcc clang; do
        command -v "$name" >/dev/null && return
    done
    return 1
}

# install EXTRAS: the project with these extras (comma separated, may be empty), and zig where
# nothing else can link. Skipped when pyproject.toml has not changed since the last time.
install() {
    local extras=$1 stamp wanted
    has_compiler || extras=${extras:+$extras,}zig
    stamp=$("$python" -c 'import sys; print(sys.prefix)')/ansor-lite-installed
    wanted="$PWD [$extras] $(cksum <pyproject.toml)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    say "installing ansor-lite${extras:+[$extras]}"
    "$python" -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    printf '%s' "$wanted" >"$stamp"
}
