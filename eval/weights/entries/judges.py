"""Networks that judge an image as people would."""

from eval.weights.file import WeightFile
from koala.models.spec import HubFile

# No hash of these files was found in a public source: a copy counts as verified only in the hub's own cache.
FILES: tuple[WeightFile, ...] = (
    *(
        WeightFile(
            name=f"hps-{version}",
            file=file,
            what=f"HPS {version}: CLIP ViT-H-14 tuned on people's choices",
            licence="Apache-2.0",
            sha256=None,
            hub=HubFile("xswu/HPSv2", file),
            caches=(f"{{mirror}}/{file}",),
        )
        for version, file in (("v2.0", "HPS_v2_compressed.pt"), ("v2.1", "HPS_v2.1_compressed.pt"))
    ),
    WeightFile(
        name="pick-score-v1",
        file="model.safetensors",
        what="PickScore v1: CLIP ViT-H-14 tuned on what people picked",
        licence="MIT",
        sha256=None,
        hub=HubFile("yuvalkirstain/PickScore_v1", "model.safetensors"),
    ),
    WeightFile(
        name="image-reward",
        file="ImageReward.pt",
        what="ImageReward v1.0: BLIP and a head",
        licence="Apache-2.0",
        sha256=None,
        hub=HubFile("THUDM/ImageReward", "ImageReward.pt"),
        caches=("{mirror}/ImageReward.pt",),
    ),
)
