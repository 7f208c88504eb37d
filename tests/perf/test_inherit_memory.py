"""SDXL -> KOALA-700M in fp16 from a file on disk: the anonymous memory of a process of its own, sampled all along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from koala.models import zoo
from koala.models.inherit import unet_shapes
from koala.models.safetensors_stream import Entry, write

ROOT = Path(__file__).parents[2]
GIB = 2**30
BOUND = 0.3 * GIB  # a student built in memory would need its own 1.46 GiB more
MEASURED = """
import json, re, sys, threading, time
from pathlib import Path
from koala.models import zoo
from koala.models.student import unet_weights, write_student

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

baseline, peaks, over = anonymous(), [], threading.Event()

def watch():
    while not over.is_set():
        peaks.append(anonymous())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
source = unet_weights(zoo.get("sdxl"), sys.argv[1], "fp16")
written = write_student(zoo.get("sdxl"), zoo.get("koala-700m"), source, Path(sys.argv[2]))
seconds = time.perf_counter() - start
over.set()
watcher.join()
print(json.dumps({
    "baseline": baseline, "peak": max(peaks), "samples": len(peaks), "student": written.num_bytes, "seconds": seconds,
}))
"""


def random_teacher(path):
    """SDXL's U-Net in fp16 with random values, in a file."""
    entries = {key: Entry(torch.float16, shape) for key, shape in unet_shapes(zoo.get("sdxl").unet).items()}
    path.parent.mkdir()
    return write(path, entries, lambda key: torch.randn(entries[key].shape, dtype=torch.float16), {"format": "pt"})


@pytest.mark.proves("loader", name="unet-folder", weights="random", remark="SDXL into a student")
@pytest.mark.fullsize
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the kernel's own count")
def test_inheritance_never_holds_the_student_or_the_teacher(benchmark, tmp_path, capsys):
    teacher_bytes = random_teacher(tmp_path / "teacher" / "diffusion_pytorch_model.safetensors")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "teacher"), str(tmp_path / "student")]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True), rounds=1
    )
    found = json.loads(done.stdout.splitlines()[-1])
    above = found["peak"] - found["baseline"]
    benchmark.extra_info |= found | {"teacher": teacher_bytes, "above_baseline": above}
    with capsys.disabled():
        print(f"\nteacher {teacher_bytes / GIB:.2f} GiB, student {found['student'] / GIB:.2f} GiB: ")
        print(f"anonymous memory at most {above / GIB:.3f} GiB above {found['baseline'] / GIB:.2f} GiB after imports, ")
        print(f"{found['samples']} samples in {found['seconds']:.1f} s; at most {BOUND / GIB} GiB wanted")
    assert found["samples"] > 100
    assert above <= BOUND
