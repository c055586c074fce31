#!/bin/sh
# Installs the official SDKs that the tests run, each generation in a place of its own under
# $TOLLGATE_SDK_DIR (default: target/sdk). Idempotent: what is set up for the pinned versions is left
# alone, and then no network is needed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${TOLLGATE_SDK_DIR:-$here/../../target/sdk}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# The hash of the named files: what a stamp holds.
digest() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
ready() { [ -f "$dir/$1/.stamp" ] && [ "$(cat "$dir/$1/.stamp")" = "$2" ]; }

need_venv() {
    command -v python3 >/dev/null || { echo "setup.sh: python3 is missing" >&2; return 1; }
    python3 -c 'import venv, ensurepip' 2>/dev/null && return 0
    package=$(python3 -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup.sh: installing $package: python3 has no ensurepip"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -q "$package" >/dev/null || { apt-get update -q >/dev/null && apt-get install -y -q "$package" >/dev/null; } || true
        python3 -c 'import venv, ensurepip' 2>/dev/null && return 0
    fi
    echo "setup.sh: python3 has no venv with ensurepip; as root: apt-get install $package" >&2
    return 1
}

failed=0
for name in openai-current openai-2 anthropic-2 anthropic-07; do
    want=$(digest "$here/requirements-$name.txt")
    if ready "$name" "$want"; then echo "ready $name"; continue; fi
    need_venv || exit 1
    rm -rf "${dir:?}/$name"
    if python3 -m venv "$dir/$name" &&
        "$dir/$name/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$here/requirements-$name.txt"; then
        echo "$want" >"$dir/$name/.stamp"
        echo "installed $name"
    else
        echo "setup.sh: $name could not be installed" >&2
        failed=1
    fi
done

want=$(digest "$here/package.json" "$here/package-lock.json")
# As in tests/sdk.rs: the oldest Node that has all the globals which the SDKs use.
node=20
major=$(node --version 2>/dev/null | sed 's/^v//; s/\..*//')
if ! [ "${major:-0}" -ge "$node" ] 2>/dev/null || ! npm --version >/dev/null 2>&1; then
    echo "skipped node: node $node or newer with npm is not installed"
elif ready node "$want"; then
    echo "ready node"
else
    rm -rf "${dir:?}/node"
    mkdir -p "$dir/node"
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$dir/node/"
    if (cd "$dir/node" && npm ci --silent --ignore-scripts); then
        echo "$want" >"$dir/node/.stamp"
        echo "installed node"
    else
        echo "setup.sh: the node packages could not be installed" >&2
        failed=1
    fi
fi
exit $failed
