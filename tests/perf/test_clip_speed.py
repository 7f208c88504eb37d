"""CLIP ViT-B-32 with random weights in one run: images/s in fp32 and with bf16 weights; captions from disk and not.

Which is faster depends on the processor, so the ratio is printed and nothing is asserted of bf16 but that the probe of
`eval/precision_probe.py` chooses the faster one where the two differ clearly.
"""

from pathlib import Path
from statistics import median
from time import perf_counter

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from eval import metrics
from eval.metrics.clip_score import ClipScore
from eval.networks import Networks
from eval.precision_probe import choose_dtype
from eval.weights import Weights

WEIGHTS = "clip/ViT-B-32/openai"
BATCH, ROUNDS, CAPTIONS = 32, 5, 256
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    tensors = open_clip.create_model("ViT-B-32", force_quick_gelu=True).state_dict()
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def networks(weight_file, tmp_path, monkeypatch, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    return Networks(Weights({WEIGHTS: weight_file}), torch.device(device))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", DEVICES)
def test_images_per_second_with_bf16_weights_against_fp32(benchmark, networks, device, capsys):
    metric = metrics.load("clip_score:mlperf")
    assert isinstance(metric, ClipScore)
    prepared = torch.randn(BATCH, 3, 224, 224)
    seconds_s: dict[str, list[float]] = {"fp32": [], "bf16": []}

    def forward(dtype: str) -> float:
        extractor = networks.extractor(metric.feed.extractor, dtype)
        start = perf_counter()
        with torch.inference_mode():
            extractor.features(prepared).cpu()  # waits for a GPU
        return perf_counter() - start

    def one_pair() -> None:
        for dtype in sorted(seconds_s, reverse=len(seconds_s["fp32"]) % 2 == 0):
            seconds_s[dtype].append(forward(dtype))

    for dtype in seconds_s:
        forward(dtype)  # warm up
    benchmark.pedantic(one_pair, rounds=ROUNDS)
    ratio = median(seconds_s["fp32"]) / median(seconds_s["bf16"])
    chosen = choose_dtype(metric.feed, torch.device(device))
    benchmark.extra_info |= {**seconds_s, "fp32_over_bf16": ratio, "chosen": chosen, "threads": torch.get_num_threads()}
    with capsys.disabled():
        rates = ", ".join(f"{dtype} {BATCH / median(times):.1f} images/s" for dtype, times in seconds_s.items())
        print(
            f"\nViT-B-32 on {device}, {torch.get_num_threads()} threads: {rates}; {ratio:.2f}x; probe chooses {chosen}"
        )
    assert 0.7 < ratio < 2 or chosen == ("bf16" if ratio > 1 else "fp32")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", DEVICES)
def test_captions_from_disk_cost_little_of_encoding_them(benchmark, networks, device, capsys):
    extractor = metrics.load("clip_score:mlperf").feed.extractor
    captions = [f"a photograph of {i} red bicycles beside a house on a hill" for i in range(CAPTIONS)]
    networks.extractor(extractor).texts(captions[:32])  # loaded and warm

    def texts() -> float:
        run = Networks(networks.weights, networks.device)  # another run, whose only memory is the disk
        run._loaded = networks._loaded
        start = perf_counter()
        for first in range(0, CAPTIONS, BATCH):
            run.texts(extractor, captions[first : first + BATCH])
        return perf_counter() - start

    encoded_s, cached_s = texts(), []
    benchmark.pedantic(lambda: cached_s.append(texts()), rounds=ROUNDS)
    ratio = encoded_s / median(cached_s)
    benchmark.extra_info |= {"encoded": encoded_s, "cached": cached_s, "encoded_over_cached": ratio}
    with capsys.disabled():
        times = f"encoded {encoded_s:.3g} s, from disk {median(cached_s):.3g} s ({ratio:.0f}x)"
        print(f"\n{CAPTIONS} captions on {device}: {times}")
    assert ratio > 1
