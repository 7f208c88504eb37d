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
    WeightFile(
        name="owlv2-base-patch16-ensemble",
        file="pytorch_model.bin",
        what="OWLv2 base, its ensemble of weights, at 960 pixels",
        licence="Apache-2.0",
        sha256="69feda8b53b1c9e2a85ae756bf58c120c3c1b4b4a4d97d4876578c1809a63d76",
        hub=HubFile("google/owlv2-base-patch16-ensemble", "pytorch_model.bin"),
        also=("model.safetensors",),
    ),
)
