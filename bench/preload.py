"""Imports that every measuring process needs; the fork server does them once, before any GPU context exists."""

import transformers.models.clip.modeling_clip  # noqa: F401

import bench.worker  # noqa: F401
