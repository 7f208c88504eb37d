"""Networks that find objects in an image."""

from eval.weights.file import WeightFile
from koala.models.spec import HubFile

FILES: tuple[WeightFile, ...] = (
    WeightFile(
        name="mask2former-swin-s-coco",
        file="model.safetensors",
        what="Mask2Former with Swin-S on COCO's instances",
        licence="other (Meta; its repository's card)",
        sha256=None,
        hub=HubFile("facebook/mask2former-swin-small-coco-instance", "model.safetensors"),
        also=("pytorch_model.bin",),
    ),
)
