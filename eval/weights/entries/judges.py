"""Networks that judge an image as people would."""

from eval.weights.file import WeightFile
from koala.models.spec import HubFile

# Hashes and sizes: as the commits of the hub's repositories state them.
_HPS = {  # version: file, sha256, bytes
    "v2.0": (
        "HPS_v2_compressed.pt",
        "07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1",
        1_972_484_501,
    ),
    "v2.1": (
        "HPS_v2.1_compressed.pt",
        "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        1_972_490_005,
    ),
}

FILES: tuple[WeightFile, ...] = (
    *(
        WeightFile(
            name=f"hps-{version}",
            file=file,
            what=f"HPS {version}: CLIP ViT-H-14 tuned on people's choices",
            licence="Apache-2.0",
            sha256=sha256,
            size_bytes=size_bytes,
            hub=HubFile("xswu/HPSv2", file),
            caches=(f"{{mirror}}/{file}",),
        )
        for version, (file, sha256, size_bytes) in _HPS.items()
    ),
    WeightFile(
        name="pick-score-v1",
        file="model.safetensors",
        what="PickScore v1: CLIP ViT-H-14 tuned on what people picked",
        licence="MIT",
        sha256="ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e",
        size_bytes=3_944_552_236,
        hub=HubFile("yuvalkirstain/PickScore_v1", "model.safetensors"),
    ),
    WeightFile(
        name="image-reward",
        file="ImageReward.pt",
        what="ImageReward v1.0: BLIP and a head",
        licence="Apache-2.0",
        sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
        size_bytes=1_786_880_927,
        hub=HubFile("THUDM/ImageReward", "ImageReward.pt"),
        caches=("{mirror}/ImageReward.pt",),
    ),
)
