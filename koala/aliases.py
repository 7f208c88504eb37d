"""Names that published tables use, and ours: the one place where they meet."""

MODELS = {
    "sdxl-base-1.0": "sdxl",
    "sdxl-base-1.0-unet": "sdxl",
    "koala-1b-unet": "koala-1b",
    "koala-700m-unet": "koala-700m",
    "sdm-v2.0-unet": "sdm-v2.0",
    "sdxl-lightning": "sdxl-lightning-4step",  # the teacher of KOALA-Lightning
    "ssd-vega": "segmind-vega",
}

DEVICES = {
    "RTX3060Ti-8GB": "nvidia-geforce-rtx-3060-ti",
    "RTX2080Ti-11GB": "nvidia-geforce-rtx-2080-ti",
    "RTX4090-24GB": "nvidia-geforce-rtx-4090",
}
