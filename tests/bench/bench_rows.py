"""Rows as a GPU would have given them, and the table they make."""

from dataclasses import asdict, replace

from bench.case import MEASUREMENT, Case
from bench.report.frame import latest_rows, to_frame
from koala.harness import records

GPU = {
    "kind": "environment",
    "id": "gpu",
    "device_kind": "cuda",
    "device_name": "NVIDIA <b>H200</b>|",
    "driver": "580",
    "torch": "2.15.0",
    "diffusers": "0.42.1",
}
SDXL = Case("sdxl", "unet", 1024, 1, "fp16", None, "cuda")
PIPELINE = replace(SDXL, target="pipeline", steps=25)
SIX = [0.11, 0.1, 0.12, 0.13, 0.09, 0.1]


def row(case, total=None, status="ok", **more):
    samples = {"samples_s": {"total": total, "device": total}} if total else {}
    return {
        "schema": records.SCHEMA,
        "kind": "bench",
        "measurement": MEASUREMENT,
        "case": asdict(case),
        "status": status,
        "environment": "gpu",
        "memory_bytes": {"weights": 2**30, "peak_reserved": 3 * 2**30},
        **samples,
        **more,
    }


def store(path, *rows, environment=GPU):
    with records.Store(path) as file:
        file.append(environment)
        for line in rows:
            file.append(line)
    return path


def frame_of(path):
    known = records.read([path])
    return to_frame(latest_rows(known), known)
