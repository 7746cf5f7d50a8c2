#!/bin/sh
# Puts the device half of edge-sft on a Debian or Ubuntu system: what every device image runs, and what may be run
# on a machine without Docker too. As root:
#
#     install-device.sh packages                              Python with venv, from the system's packages
#     install-device.sh install --wheels DIR [--extras cpu,vision] [--constraints FILE] [--system-site-packages]
#
# DIR holds wheels, as `edge-sft wheelhouse --profile P --out DIR` makes them; nothing else is installed from, so the
# second step needs no network. Where DIR has a requirements.txt, exactly its files are taken, by their hashes.
# --system-site-packages lets the environment see TensorRT's Python module of the system (Jetson, NVIDIA's images).
set -eu

PREFIX=${PREFIX:-/opt/edge-sft}
STATE=${STATE:-/var/lib/edge-sft}
USER_ID=${USER_ID:-10001}

die() {
    echo "install-device.sh: $1" >&2
    exit 1
}

packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends ca-certificates python3 python3-venv
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
}

install_wheels() {
    wheels="" extras="cpu,vision" constraints="" sees=""
    while [ $# -gt 0 ]; do
        case $1 in
            --wheels) wheels=$2; shift 2 ;;
            --extras) extras=$2; shift 2 ;;
            --constraints) constraints=$2; shift 2 ;;
            --system-site-packages) sees=$1; shift ;;
            *) die "unknown option $1" ;;
        esac
    done
    [ -d "$wheels" ] || die "--wheels DIR: '$wheels' is no folder of wheels"
    python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
        || die "edge-sft needs Python 3.10 to 3.12, this is $(python3 --version 2>&1)"
    python3 -c 'import ensurepip' 2> /dev/null || die "Python's venv is missing; run first: install-device.sh packages"

    # shellcheck disable=SC2086  # empty unless asked for
    python3 -m venv $sees "$PREFIX"
    # isolated: NVIDIA's images hold every package to their own versions with PIP_CONSTRAINT
    pip="$PREFIX/bin/python -m pip --isolated --disable-pip-version-check --no-cache-dir"
    if [ -f "$wheels/requirements.txt" ]; then
        $pip install -q --no-index --find-links "$wheels" --require-hashes -r "$wheels/requirements.txt"
    else
        $pip install -q --no-index --find-links "$wheels" ${constraints:+-c "$constraints"} "edge-sft[$extras]"
    fi
    $pip uninstall -q -y pip setuptools 2> /dev/null || true # 15 MB that a device does not need
    "$PREFIX/bin/edge-sft" --version
}

account() {
    # A user without shell or password, who owns the state and nothing else.
    grep -q '^edge-sft:' /etc/group || groupadd --gid "$USER_ID" edge-sft
    grep -q '^edge-sft:' /etc/passwd || useradd --uid "$USER_ID" --gid edge-sft --no-create-home \
        --home-dir "$STATE" --shell /usr/sbin/nologin edge-sft
    mkdir -p "$STATE" /etc/edge-sft/keys /run/edge-sft
    chown edge-sft:edge-sft "$STATE" /run/edge-sft
    chmod 0750 "$STATE"
}

step=${1:-}
[ $# -gt 0 ] && shift
case $step in
    packages) packages ;;
    install) install_wheels "$@"; account ;;
    *) die "say packages or install; see the head of this file" ;;
esac
