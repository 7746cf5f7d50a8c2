#!/bin/bash
# What the CPU image and docker/compose.yaml promise, shown without Docker:
#
#     sudo docker/prove-install.sh --demo DIR [--keep ROOT]
#
# A clean Debian root stands for the base image; the same install script, in a network namespace with nothing but
# loopback, for the build; and the agent runs as the image's user, on a read-only root, with the image's environment,
# docker/device/agent.toml and the Mosquitto configuration of docker/mosquitto (TLS, passwords, rights) for the rest.
# DIR is what `edge-sft demo --dir DIR` made. Needs root, debootstrap, mosquitto, openssl. Everything ends with the
# script; --keep leaves the root and takes it again next time.
set -euo pipefail
if [ -z "${PROVE_NAMESPACE:-}" ]; then
    exec unshare --mount --propagation private env PROVE_NAMESPACE=1 "$0" "$@"
fi

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
binaries=${VENV:-$checkout/.venv}/bin
demo="" keep=""
while [ $# -gt 0 ]; do
    case $1 in
        --demo) demo=$(realpath "$2"); shift 2 ;;
        --keep) keep=$2; shift 2 ;;
        *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
    esac
done
[ -n "$demo" ] || { echo "give --demo DIR" >&2; exit 2; }
work=$(mktemp -d /tmp/edge-sft-docker.XXXXXX)
root=${keep:-$work/root}
pids=()
clean() {
    for pid in "${pids[@]}"; do pkill -9 -P "$pid" || kill -9 "$pid"; done 2> /dev/null || true
    wait 2> /dev/null || true
    umount --recursive --quiet "$root" 2> /dev/null || true
    umount --quiet "$work/net" 2> /dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT

say() { printf '\n== %s\n' "$1"; }
fail() { printf 'FAILED: %s\n' "$1" >&2; exit 1; }
until_true() { # seconds, then a command
    local end=$((SECONDS + $1)); shift
    until "$@" > "$work/last" 2>&1; do
        [ $SECONDS -lt $end ] || { cat "$work/last"; fail "$*"; }
        sleep 0.3
    done
}

say "a clean root: Debian bookworm, minbase"
if [ ! -e "$root/etc/made-by-prove-install.sh" ]; then
    debootstrap --variant=minbase bookworm "$root" > "$work/debootstrap.log" || { tail "$work/debootstrap.log"; exit 1; }
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    cp "$here/install-device.sh" "$root/usr/local/sbin/"
    chroot "$root" /usr/local/sbin/install-device.sh packages > "$work/packages.log" 2>&1 || { tail "$work/packages.log"; exit 1; }
    touch "$root/etc/made-by-prove-install.sh"
fi
cp "$here/install-device.sh" "$root/usr/local/sbin/"
rm -rf "$root/opt/edge-sft" "$root/var/lib/edge-sft"
du -sh "$root" | sed 's/\t.*/ before edge-sft/'

say "wheels"
if "$binaries/edge-sft" wheelhouse --help > "$work/help" 2>&1; then
    "$binaries/edge-sft" wheelhouse --profile x86-cpu --python 3.11 --out "$work/wheels"
else
    "$binaries/python" -m build --wheel --no-isolation --outdir "$work/dist" "$checkout" > "$work/build.log" 2>&1
    "$binaries/python" -m pip download -q --only-binary=:all: --python-version 3.11 --platform manylinux_2_17_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
        --abi cp311 --abi abi3 --abi none -d "$work/wheels" "$(echo "$work"/dist/*.whl)[cpu,vision]" 2> "$work/pip.log"
fi

# From here on: a machine with loopback and nothing else.
mount --bind "$root" "$root"
for place in proc sys dev; do mount --rbind "/$place" "$root/$place"; done
mkdir -p "$root/wheels" "$root/pictures" "$root/bundles" "$root/run/secrets" "$root/etc/edge-sft/keys"
mount --bind -o ro "$work/wheels" "$root/wheels"
alone() { nsenter --net="$work/net" "$@"; }
touch "$work/net"
unshare --net="$work/net" true
alone ip link set lo up 2> /dev/null || alone "$binaries/python" - <<'PY'
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
PY
alone bash -c 'exec 3<> /dev/tcp/deb.debian.org/80' 2> /dev/null && fail "there is a network"

say "install-device.sh install, without network"
alone chroot "$root" /usr/local/sbin/install-device.sh install --wheels /wheels --extras cpu,vision
du -sh "$root/opt/edge-sft" | sed 's/\t.*/ edge-sft and what it needs/'
umount "$root/wheels"

say "secrets, a broker with TLS, passwords and rights, and a read-only root"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=plant -keyout "$work/ca.key" -out "$work/ca.pem" 2> /dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=mosquitto -keyout "$work/server.key" -out "$work/server.csr" 2> /dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile <(echo "subjectAltName=DNS:mosquitto") -out "$work/server.pem" 2> /dev/null
mosquitto_passwd -b -c "$work/passwords" device1 "the device's secret" 2> /dev/null
mosquitto_passwd -b "$work/passwords" monitor "the monitor's secret" 2> /dev/null
sed "s#/mosquitto/config#$work#; s#/mosquitto/data/#$work/data/#" "$here/mosquitto/mosquitto.conf" > "$work/mosquitto.conf"
cp "$here/mosquitto/acl" "$work/acl"
mkdir "$work/data"
chmod go+rX "$work" "$work"/*.pem && chown -R mosquitto: "$work/data" "$work/passwords" "$work/server.key" "$work/acl"
alone "$(command -v mosquitto || echo /usr/sbin/mosquitto)" -c "$work/mosquitto.conf" > "$work/broker.log" 2>&1 &
pids+=($!)

mkdir "$work/pictures" "$work/bundles"
cp "$demo"/*/build/*.edge "$work/bundles/"
# Speed is not what is shown: the profile with ten times the budget, so that a busy machine does not refuse the bundle.
sed 's/^latency_p95_ms.*/latency_p95_ms = 1000.0/' "$checkout/devices/x86-cpu.toml" > "$work/bundles/patient.toml"
mount -t tmpfs -o size=256m,mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o size=1m,mode=0755,uid=10001,gid=10001 tmpfs "$root/run/edge-sft"
mount -t tmpfs -o size=1m tmpfs "$root/run/secrets"
printf "the device's secret" > "$root/run/secrets/device_password"
cp "$work/ca.pem" "$root/run/secrets/ca.pem"
chmod 0444 "$root"/run/secrets/*
cp "$here/device/agent.toml" "$root/etc/edge-sft/agent.toml"
EDGE_SFT_KEYS="$root/etc/edge-sft/keys" "$binaries/edge-sft" keys trust "$demo"/keys/*.pub.pem
chmod -R a+rX "$root/etc/edge-sft"
echo "127.0.0.1 localhost mosquitto" > "$root/etc/hosts"
mount --bind -o ro "$work/pictures" "$root/pictures"
mount --bind -o ro "$work/bundles" "$root/bundles"
mkdir "$work/state" && chown 10001:10001 "$work/state"
mount --bind "$work/state" "$root/var/lib/edge-sft"
mount -o remount,ro,bind "$root"

# The image's own ENV, and its USER.
image_env=$(sed -n '/^ENV /,/[^\\]$/p' "$here/device-cpu.Dockerfile" | sed 's/^ENV //; s/\\$//' | tr -d '\n')
# shellcheck disable=SC2016,SC2086
as_device() {
    alone env -i PATH=/usr/local/bin:/usr/bin:/bin sh -c 'root=$1; vars=$2; shift 2
        eval "export $vars"; exec /usr/sbin/chroot --userspec=10001:10001 --groups= "$root" setpriv --no-new-privs "$@"' \
        sh "$root" "$image_env" "$@"
}
# shellcheck disable=SC2016  # for the inner shell
as_device sh -c 'id; for place in / /etc /opt/edge-sft /pictures; do
    touch $place/x 2> /dev/null && { echo "$place can be written"; exit 1; }; done; touch /var/lib/edge-sft/x && rm /var/lib/edge-sft/x
    grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status; echo "only the state can be written"'

say "deploy"
as_device edge-sft deploy "/bundles/$(basename "$work"/bundles/*.edge)" --to local --profile /bundles/patient.toml
as_device edge-sft agent health && fail "healthy without an agent"

start_agent() {
    as_device edge-sft run --config /etc/edge-sft/agent.toml >> "$work/agent.log" 2>&1 &
    pids+=($!)
    agent=$! # the shell that waits for it
}
monitor="alone mosquitto_sub -h mosquitto -p 8883 --cafile $work/ca.pem -u monitor -P"
say "the agent"
mount --bind "$root/etc/hosts" /etc/hosts # in this script's own mount namespace: the name in the certificate
$monitor "the monitor's secret" -q 1 -t 'edge-sft/v1/#' -F '%t %p' > "$work/heard" 2> "$work/heard.log" &
pids+=($!)
start_agent
until_true 60 as_device edge-sft agent health
cat "$work/last"
until_true 60 grep -q '"online":true' "$work/heard"
mapfile -t pictures < <(find "$demo" -path '*/line/*' -type f | sort | head -20)
give() { for one in "${pictures[@]:$1:$2}"; do cp "$one" "$work/pictures/.part" && mv "$work/pictures/.part" "$work/pictures/$(basename "$one")"; done; }
decided() { [ "$(grep -c 'main/prediction' "$work/heard")" -ge "$1" ]; }
give 0 10
until_true 60 decided 10
echo "$(grep -c main/prediction "$work/heard") decisions at the broker"

say "kill -9, then the restart that compose's restart policy would make"
kill -9 "$(pgrep -P "$agent")"
wait "$agent" 2> /dev/null || true
sleep 3
as_device edge-sft agent health --fresh-s 2 && fail "healthy although killed"
give 10 10
start_agent
until_true 60 as_device edge-sft agent health --fresh-s 5
cat "$work/last"
until_true 60 decided 20
sleep 2
"$binaries/python" - "$work/heard" <<'PY'
import json, sys
lines = [line.split(" ", 1) for line in open(sys.argv[1])]
sent = [json.loads(body) for topic, body in lines if topic.endswith("main/prediction")]
names = [one["prediction"]["name"] for one in sent]
seqs = sorted({one["seq"] for one in sent})
assert len(set(names)) == 20, sorted(names)
assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), seqs
print(f"20 pictures, {len(seqs)} decisions, sequence {seqs[0]} to {seqs[-1]} without a gap, {len(sent) - len(seqs)} sent twice")
PY

say "SIGTERM"
kill -TERM "$(pgrep -P "$agent")"
status=0
wait "$agent" || status=$?
[ $status -eq 0 ] || fail "exit status $status"
echo "exit status 0"
tail -1 "$work/agent.log"
until_true 10 grep -q '"reason":"stopped"' "$work/heard"
echo "the broker holds: $(grep ' *"online":false' "$work/heard" | tail -1 | cut -c1-160)"

say "what is in the state folder"
find "$work/state" -maxdepth 1 -mindepth 1 -printf '%f\n' | sort | tr '\n' ' '
[ ! -e "$work/state/.cache" ] || fail "a library left something of its own"
printf '\n\nall shown\n'
