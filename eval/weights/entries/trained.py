"""What is trained here, on images of one's own: no hub and no package has it, and no hash is the standard one."""

from eval.weights.file import WeightFile

FILES = (
    WeightFile(
        name="toyclip",
        file="toyclip.safetensors",
        what="heads of a text-image score, trained on captioned images of one domain",
        licence="that of the images it was trained on",
        sha256=None,
        made_by="python -m eval toyclip FOLDER --beside FOLDER --out FILE.safetensors",
    ),
)
