#!/bin/bash
# The device half and its bundles on 64-bit Arm, without an Arm board: a Debian root of arm64 under qemu-user.
#
#     sudo benchmarks/arm64.sh --demo DIR --sensors DIR [--keep ROOT]
#
# DIR of --demo is what `edge-sft demo --dir DIR` made, that of --sensors what benchmarks/sensor_bundles.py made; give
# one or both. Needs root, and: apt install qemu-user-static binfmt-support debootstrap. Debian's packages and arm64
# wheels of Python's package index are fetched by debootstrap and pip; inside the root nothing is. --keep leaves the
# root and takes it again next time (making it takes most of the time).
#
# The same commands run in the root and on this machine; arm64_table.py compares what came out and writes
# benchmarks/results/arm64.md. All mounts live in a namespace of their own and end with this script.
set -euo pipefail
if [ -z "${ARM64_NAMESPACE:-}" ]; then
    exec unshare --mount --propagation private env ARM64_NAMESPACE=1 "$0" "$@"
fi

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
python=${PYTHON:-$checkout/.venv/bin/python}
keep="" sets=()
while [ $# -gt 0 ]; do
    case $1 in
        --demo | --sensors) sets+=("$1" "$(realpath "$2")"); shift 2 ;;
        --keep) keep=$2; shift 2 ;;
        *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
    esac
done
[ ${#sets[@]} -gt 0 ] || { echo "give --demo DIR, --sensors DIR or both" >&2; exit 2; }
for tool in debootstrap qemu-aarch64-static mosquitto; do
    command -v $tool > /dev/null || [ -x /usr/sbin/$tool ] || { echo "$tool is not installed" >&2; exit 2; }
done

work=$(mktemp -d /tmp/edge-sft-arm64.XXXXXX)
root=${keep:-$work/root}
clean() {
    umount --recursive --quiet "$root$work" "$root/proc" "$root/sys" "$root/dev" 2> /dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT

# The kernel hands arm64 programs to qemu; the flag P keeps argv[0], F keeps the interpreter open across chroot.
emulated() {
    [ -e /proc/sys/fs/binfmt_misc/status ] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2> /dev/null || return 1
    [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64 2> /dev/null || true
    grep -q '^flags:.*F' /proc/sys/fs/binfmt_misc/qemu-aarch64 2> /dev/null
}
if emulated; then
    inside=(chroot "$root")
else # a kernel whose binfmt_misc cannot be used: proot starts qemu for every program
    inside=(proot -q qemu-aarch64-static -R "$root" -b "$work" -b "$work/cpuinfo:/proc/cpuinfo")
fi

if [ ! -e "$root/etc/made-by-arm64.sh" ]; then
    echo "== Debian bookworm, arm64, in $root"
    rm -rf --one-file-system "$root"
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,python3-venv bookworm "$root" > "$work/debootstrap.log" \
        || { tail "$work/debootstrap.log"; exit 1; }
    "${inside[@]}" /debootstrap/debootstrap --second-stage > "$work/second.log" || { tail "$work/second.log"; exit 1; }
    touch "$root/etc/made-by-arm64.sh"
fi

echo "== the wheel of this checkout and arm64 wheels of what it needs"
"$python" -m build --wheel --no-isolation --outdir "$work/dist" "$checkout" > "$work/build.log" 2>&1 || { tail "$work/build.log"; exit 1; }
platforms=()
for glibc in 2_17 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do platforms+=(--platform "manylinux_${glibc}_aarch64"); done
"$python" -m pip download -q --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform manylinux2014_aarch64 "${platforms[@]}" -c "$checkout/constraints.txt" -d "$work/wheels" \
    "$(echo "$work"/dist/*.whl)[cpu,vision]" 2> "$work/pip.log" || { cat "$work/pip.log"; exit 1; }

"$python" -m venv "$work/here" # the same wheel on this machine's own processor
"$work/here/bin/pip" install -q -c "$checkout/constraints.txt" "$(echo "$work"/dist/*.whl)[cpu,vision]" 2> "$work/pip.log" \
    || { cat "$work/pip.log"; exit 1; }

mkdir -p "$root$work"
mount --bind "$work" "$root$work"
# ONNX Runtime asks /sys how many cores there are and /proc/cpuinfo of what kind, and dies on import where the latter is
# that of an x86 processor (qemu-user 7.2 hands it through): it is shown the processor that is emulated.
for place in proc sys dev; do mount --bind "/$place" "$root/$place"; done
export ORT_DISABLE_TELEMETRY=1
export QEMU_CPU=cortex-a76 # a Raspberry Pi 5's; a Jetson Orin's Cortex-A78AE has the same instructions for INT8
for core in $(seq 0 $(($(nproc --all) - 1))); do
    printf 'processor\t: %s\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n' "$core"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 0\n\n'
done > "$work/cpuinfo"
mount --bind "$work/cpuinfo" "$root/proc/cpuinfo"
echo "== into an environment in the root, without an index"
"${inside[@]}" sh -ec "python3 -m venv /opt/edge-sft
    pip='/opt/edge-sft/bin/pip --isolated install -q --no-index --find-links $work/wheels'
    \$pip 'edge-sft[cpu,vision]'; \$pip --no-deps --force-reinstall edge-sft # a kept root has that of last time"

"$python" "$here/arm64_table.py" --work "$work" --here "$work/here/bin" "${sets[@]}" -- "${inside[@]}"
