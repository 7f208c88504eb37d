"""Distillation and fine-tuning: data, taps, losses, objectives, one trainer and the named runs."""
