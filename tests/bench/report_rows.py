"""Files of rows that a report is made of."""

from dataclasses import replace

from bench_rows import PIPELINE, SDXL, SIX, row, store

from koala.harness import environment

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
PARTS = {"encode": [0.1] * 6, "denoise": [2.5] * 6, "decode": [0.3] * 6, "rest": [0.0] * 6}
PEAK = {"flops_per_s": 1e15, "bytes_per_s": 4.8e12, "source": "a datasheet"}
COUNTED = {"flops": int(1.35e13), "moved_bytes": int(5e10), "peak": PEAK}


def rows():
    """A few cases of one device: two models, two sizes, a smaller card that is too small."""
    koala = replace(PIPELINE, model="koala-700m")
    found = []
    for case, seconds in ((PIPELINE, 3.0), (koala, 1.25)):
        for side in (512, 1024):
            line = row(
                replace(case, resolution=side), [seconds * side / 1024 * s for s in (1, 0.99, 1.01, 1, 1, 1)], **COUNTED
            )
            line["samples_s"] |= PARTS
            found.append(line)
    found += [row(SDXL, SIX, **COUNTED), row(replace(SDXL, model="koala-700m"), [0.04] * 6, **COUNTED)]
    found.append(row(replace(PIPELINE, vram_bytes=8 * 2**30), status="oom", reason=HOSTILE))
    return found


def many(count):
    """As many cases as asked for, with samples as a sweep leaves them."""
    for place in range(count):
        line = row(SDXL, [0.1 + 1e-5 * (7 * place % 97) + 1e-6 * i for i in range(20)], **COUNTED)
        line["case"] |= {"model": f"model-{place % 50}", "resolution": 64 * (1 + place // 50)}
        yield line


def published(folder, *lines):
    """A folder of results with one device."""
    lines = lines or rows()
    name = environment.slug("NVIDIA <b>H200</b>|")
    (folder / name).mkdir(parents=True)
    store(folder / name / "rows.jsonl", *lines)
    return folder
