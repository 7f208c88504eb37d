"""Latency and peak memory of text-to-image models per device, model and resolution."""
