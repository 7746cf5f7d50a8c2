#!/bin/sh
# What an NVIDIA GPU gives: golden samples and speed on ONNX Runtime's CUDA provider and on TensorRT, beside each
# library's bare loop, and training with AMP beside a plain PyTorch loop. Tables go to $OUT (default: gpu-results).
#
#   benchmarks/gpu.sh prepare KEY.pub.pem BUNDLE.edge...   here, with a package index: fills .gpu/ (git must ignore it)
#   benchmarks/gpu.sh take .gpu/part-00                    there, once a part, where little can be carried at a time
#   benchmarks/gpu.sh run cuda|cpu                         there; cpu tries the same road without a GPU
#
# `prepare` cuts onnxruntime-gpu (and TensorRT-RTX) into parts of $PART_MB (default 52), because some machines take
# 64 MB at a time and have no internet; .gpu/base is the rest and is wanted by `run`. What is missing on the machine
# is skipped with its reason. One run: 5 to 8 minutes on a GPU.
set -u
cd "$(dirname "$0")/.." || exit 1
HERE=.gpu
STORE=${STORE:-/tmp/edge-sft-gpu}
OUT=${OUT:-gpu-results}
PYTHON=${PYTHON:-python3}
PART_MB=${PART_MB:-52}
TARGET=${TARGET:-3.12}
SMALL="pydantic pydantic-core annotated-types typing-inspection paho-mqtt cryptography cffi pycparser"

main() {
    case "${1:-}" in
        prepare) shift; prepare "$@" ;;
        take) take "${2:?which part}" ;;
        run) run "${2:-cuda}" ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
}

# --- here -------------------------------------------------------------------------------------------------------

prepare() {
    [ $# -ge 2 ] || { echo "gpu.sh prepare KEY.pub.pem BUNDLE.edge..." >&2; exit 2; }
    if git rev-parse -q --git-dir >/dev/null 2>&1 && ! git check-ignore -q "$HERE/x"; then
        echo "git does not ignore $HERE/: mkdir -p .git/info; echo /$HERE/ >> .git/info/exclude" >&2
        exit 2
    fi
    rm -rf "$HERE" && mkdir -p "$HERE/base/wheels" "$HERE/base/bundles" "$HERE/base/keys"
    key=$1; shift
    cp "$key" "$HERE/base/keys/" && cp "$@" "$HERE/base/bundles/" || exit 1
    for package in $SMALL; do fetch "$package" "$HERE/base/wheels" || exit 1; done
    parts "${GPU_RUNTIME:-onnxruntime-gpu}" || echo "the CUDA provider will be skipped"
    [ -z "${WITH_RTX:-}" ] || parts tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13
    echo "there, quickly one after the other:"
    for part in "$HERE"/part-*; do [ -d "$part" ] && echo "  carry $part:  benchmarks/gpu.sh take $part"; done
    echo "  carry $HERE/base:  benchmarks/gpu.sh run cuda"
    du -sm "$HERE"/*
    [ "$(du -sm "$HERE/base" | cut -f1)" -le "$PART_MB" ] || echo "$HERE/base is larger than a part: give fewer bundles"
}

fetch() { # package, folder; the `pip` of this machine, wheels of the other one
    "${FETCHER:-$PYTHON}" -m pip download -q --no-deps --only-binary=:all: --python-version "$TARGET" \
        --implementation cp --platform manylinux_2_39_x86_64 --platform manylinux_2_34_x86_64 \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 -d "$2" "$1"
}

parts() { # packages: one archive, packed harder than a wheel is, cut
    room=$(mktemp -d) && mkdir "$room/site"
    for package in "$@"; do
        fetch "$package" "$room" || { echo "$package: not to be had here" >&2; rm -rf "$room"; return 1; }
    done
    for wheel in "$room"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$room/site"; done
    number=$(find "$HERE" -name 'part-*' | wc -l)
    tar -C "$room/site" -cf - . | xz -6 -T0 | split -b "${PART_MB}m" -d - "$room/cut-"
    for cut in "$room"/cut-*; do
        part=$(printf '%s/part-%02d' "$HERE" "$number"); number=$((number + 1))
        mkdir "$part" && mv "$cut" "$part/$1.$(basename "$cut")"
    done
    rm -rf "$room"
}

# --- there ------------------------------------------------------------------------------------------------------

take() {
    mkdir -p "$STORE/parts" && cp "$1"/* "$STORE/parts/" && ls -l "$STORE/parts"
}

run() {
    device=$1
    DETAILS=$STORE/details
    mkdir -p "$OUT" "$STORE/work" "$DETAILS" && : > "$OUT/summary.md"
    OUT=$(cd "$OUT" && pwd)
    unpack
    PYTHONPATH="$STORE/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
    LD_LIBRARY_PATH="$(libraries)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    EDGE_SFT_KEYS=$STORE/work/keys
    OMP_WAIT_POLICY=PASSIVE
    PYTHONDONTWRITEBYTECODE=1
    export PYTHONPATH LD_LIBRARY_PATH EDGE_SFT_KEYS OMP_WAIT_POLICY PYTHONDONTWRITEBYTECODE
    say "# An NVIDIA GPU, $(date -u +'%Y-%m-%d %H:%M') UTC"
    say '```'
    { nvidia-smi -L 2>&1 || true; "$PYTHON" benchmarks/gpu_tables.py facts; } | head -40 | tee -a "$OUT/summary.md"
    say '```'
    if [ "$device" = cuda ]; then batches=1,8,32 seconds=1; else batches=1,4 seconds=0.2; fi
    engine "onnxruntime-$device" onnxruntime "$device" "fp32 fp16 int8-trt"
    if [ "$device" = cuda ]; then
        engine tensorrt tensorrt cuda "fp32 fp16 int8-trt"
        engine tensorrt_rtx tensorrt_rtx cuda "fp32 fp16 int8-trt"
    else
        skip tensorrt "asked for the CPU"
        skip tensorrt_rtx "asked for the CPU"
    fi
    training
    tar -C "$DETAILS" -czf "$OUT/details.tar.gz" .
    echo "tables: $OUT/summary.md; logs and JSON: $OUT/details.tar.gz"
}

unpack() { # what was taken, and the small wheels where they are missing
    mkdir -p "$STORE/site"
    for first in "$STORE"/parts/*.cut-00; do
        [ -f "$first" ] && cat "${first%00}"* | tar -C "$STORE/site" -xJf -
    done
    "$PYTHON" -c 'import cryptography, paho.mqtt, pydantic' 2>/dev/null && return
    for wheel in "$HERE"/base/wheels/*.whl; do
        case $wheel in *cp*-cp*) ours "$wheel" || continue ;; esac
        [ -f "$wheel" ] && "$PYTHON" -m zipfile -e "$wheel" "$STORE/site"
    done
}

ours() { # is a compiled wheel for the Python that is here?
    tag=cp$("$PYTHON" -c 'import sys; print("%d%d" % sys.version_info[:2])')
    case $1 in *-"$tag"-* | *abi3*) return 0 ;; *) echo "left out: $1 is not for $tag"; return 1 ;; esac
}

libraries() { # CUDA's, where wheels brought them
    "$PYTHON" - <<'PYTHON'
import glob, os, sysconfig
site = sysconfig.get_paths()["purelib"]
print(":".join(sorted({os.path.dirname(name) for name in glob.glob(f"{site}/nvidia/*/lib/*.so*")})))
PYTHON
}

engine() { # title, engine, provider, variants: proof (parity on golden samples), then speed, of every bundle
    title=$1 name=$2 provider=$3
    why=$("$PYTHON" benchmarks/gpu_tables.py usable "$name" "$provider") || { skip "$title" "$why"; return; }
    accelerator=""
    [ "$provider" = cpu ] || accelerator=$("$PYTHON" benchmarks/gpu_tables.py accelerator)
    printf 'name = "gpu-bench"\ntitle = "%s"\nengine = "%s"\nprovider = "%s"\nvariants = [%s]\nfall_back = true\n%s\n%s\n%s\n' \
        "$title" "$name" "$provider" "$(echo "$4" | sed 's/[^ ]*/"&"/g; s/ /, /g')" \
        "[budgets]
latency_p95_ms = 1000.0
memory_mb = 8000.0" "[building]
batch_max = ${batches##*,}
timeout_s = 120.0" "$accelerator" > "$STORE/work/$title.toml"
    mkdir -p "$STORE/work/keys/trusted" && cp "$HERE"/base/keys/*.pem "$STORE/work/keys/trusted/"
    for bundle in "$HERE"/base/bundles/*.edge; do
        [ -f "$bundle" ] || { skip "$title" "no bundle in $HERE/base/bundles: run gpu.sh prepare"; return; }
        model=$(basename "$bundle" .edge) root=$STORE/work/root-$title-$(basename "$bundle" .edge)
        rm -rf "$root"
        echo "== $title: $model"
        if ! edge_sft 200 deploy "$bundle" --profile "$STORE/work/$title.toml" --root "$root" > "$DETAILS/$title-$model.log" 2>&1; then
            skip "$title, $model" "deploy: $(tail -n 3 "$DETAILS/$title-$model.log" | tr '\n' ' ')"
            continue
        fi
        edge_sft 150 bench --root "$root" --batch "$batches" --seconds "$seconds" --json "$DETAILS/$title-$model.json" \
            >> "$DETAILS/$title-$model.log" 2>&1 || tail -n 3 "$DETAILS/$title-$model.log"
        "$PYTHON" benchmarks/gpu_tables.py tables "$title" "$root" "$DETAILS/$title-$model.json" | tee -a "$OUT/summary.md"
    done
}

edge_sft() { # seconds, words
    limit=$1; shift
    timeout "$limit" "$PYTHON" -m edge_sft.cli.main "$@"
}

training() {
    why=$("$PYTHON" benchmarks/gpu_tables.py usable torch "$device") || { skip training "$why"; return; }
    if [ "$device" = cuda ]; then how="--batch 32,128 --steps 60"; else how="--size 64 --batch 8 --steps 4"; fi
    # shellcheck disable=SC2086
    timeout 150 "$PYTHON" benchmarks/gpu_training.py --device "$device" $how --out "$DETAILS/training.md" \
        || { skip training "it failed or took longer than 150 s"; return; }
    cat "$DETAILS/training.md" >> "$OUT/summary.md"
}

say() { echo "$1" | tee -a "$OUT/summary.md"; }
skip() { say "
## $1: skipped

$2"; }

main "$@"
