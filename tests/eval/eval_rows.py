"""Rows as scoring would have given them, and the store they make."""

import hashlib

from koala.harness import records

CPU = {
    "kind": "environment",
    "id": "cpu",
    "device_kind": "cpu",
    "device_name": "Xeon <b>|",
    "torch": "2.15.0",
    "transformers": "5.23.0",
    "numpy": "2.4.6",
    "koala_bench": "0.2.0",
    "git_commit": "abc",
}
HOSTILE = "a|b\n<script>alert(1)</script> $x^{$ [l](javascript:1)"
NOW = "2026-03-01T00:00:00+00:00"
COCO = {"name": "coco-val", "content": "c0c0" * 16, "path": "/data/coco"}


def metric_row(id, name, level="image", higher=True, label=None, **more):
    return {
        "kind": "metric",
        "id": id,
        "metric": name,
        "label": label or name,
        "level": level,
        "higher_is_better": higher,
        "substitute": False,
        "extractor": "inception_v3",
        "preparation": "to 299 x 299, bicubic with antialias; from -1 to 1",
        "dtype": "fp32",
        "weights": {"inception.pth": "5f" * 32},
        "verified": True,
        "settings": {},
        **more,
    }


CLIP = metric_row("11c11c11c11c11c1", "clip_score:mlperf", extractor="clip_vit_b32", settings={"scale": 100.0})
FID = metric_row("f1df1df1df1df1d0", "fid:clean", "set", higher=False)
DIVERSITY = metric_row("d1d1d1d1d1d1d1d1", "lpips_diversity", "group")


def settings(model="koala-700m", weights="hub", **more):
    return {
        "model": model,
        "weights": weights,
        "recipe": {"scheduler": "euler", "steps": 25, "guidance": 7.5},
        "profile": "eager",
        "height": 1024,
        "width": 1024,
        "dtype": "fp16",
        **more,
    }


def set_row(name="koala", n=8, content="content-1", id=None, **more):
    return {
        "kind": "set",
        "id": id or hashlib.sha256(name.encode()).hexdigest()[:16],
        "name": name,
        "path": f"/images/{name}",
        "settings": settings(),
        "n": n,
        "content": content,
        "unreadable": [],
        "duplicates": 0,
        "notes": [],
        **more,
    }


def image_row(of, place, scores, prompt=None, seed=0, started_at=NOW, **more):
    """Image `place` of set `of`; scores are {metric id: value}."""
    prompt = f"prompt {place}" if prompt is None else prompt
    name = f"{place:04d}.png"
    return {
        "kind": "eval",
        "level": "image",
        "set": of["id"],
        "file": name,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "prompt": prompt,
        "seed": seed,
        "tags": {"category": "animals" if place % 2 else "food"},
        "scores": scores,
        "environment": "cpu",
        "started_at": started_at,
        **more,
    }


def image_rows(of, metric, values, **more):
    return [image_row(of, place, {metric["id"]: value}, **more) for place, value in enumerate(values)]


def group_row(of, prompt, scores, **more):
    row = {"kind": "eval", "level": "group", "set": of["id"], "prompt": prompt, "files": [], "scores": scores}
    return {**row, "environment": "cpu", "started_at": NOW, **more}


def estimate_row(of, metric, value, low=None, high=None, reference=COCO, started_at=NOW, **more):
    interval = {"low": low, "high": high, "confidence": 0.95, "method": "jackknife"} if low is not None else None
    return {
        "kind": "eval",
        "level": "set",
        "set": of["id"],
        "content": of["content"],
        "metric": metric["id"],
        "value": value,
        "interval": interval,
        "n": of["n"],
        "n_reference": 40504 if reference else None,
        "reference": reference,
        "detail": {},
        "environment": "cpu",
        "started_at": started_at,
        **more,
    }


def unavailable_row(of, metric, reason="weights are not here", files=("ViT-g-14.safetensors",)):
    return {"kind": "unavailable", "set": of["id"], "metric": metric, "reason": reason, "files": list(files)}


def store(path, *rows, environment=CPU):
    with records.Store(path) as file:
        if environment:
            file.append(environment)
        for row in rows:
            file.append({"schema": records.SCHEMA, **row})
    return path


def known(*rows):
    """The records of rows, without a file."""
    found = records.Records()
    for row in (CPU, *rows):
        found.add(row)
    return found
