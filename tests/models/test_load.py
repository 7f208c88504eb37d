import pytest
import torch

from koala.errors import UnknownName
from koala.models import zoo
from koala.models.cost import unet_inputs
from koala.models.load import DTYPES, load
from koala.models.networks import meta_networks
from koala.models.random_weights import materialise
from koala.models.spec import ClipText
from koala.sampling.pipelines import diffusers_pipeline

NAMES = [name for name in zoo.names() if not name.endswith("-64")]  # wider ones of the same topology
TWINS = list({zoo.get(name).unet: f"tiny-{name}" for name in NAMES}.values())  # one of each topology
SMALLEST_NORMAL = {dtype: torch.finfo(dtype).smallest_normal for dtype in (torch.float32, torch.bfloat16)}


def every_output(network, **inputs):
    outputs = []

    def keep(module, args, output):
        outputs.extend(t for t in (output if isinstance(output, tuple) else (output,)) if isinstance(t, torch.Tensor))

    hooks = [module.register_forward_hook(keep) for module in network.modules()]
    with torch.inference_mode():
        network(**inputs, return_dict=False)
    for hook in hooks:
        hook.remove()
    assert len(outputs) > 100
    return outputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TWINS)
def test_activations_of_random_weights_are_finite_and_vary(name, dtype):
    spec = zoo.get(name)
    unet = load(spec, "cpu", dtype, parts=("unet",)).unet
    for resolution in (64, 128):
        torch.manual_seed(0)
        inputs = unet_inputs(spec, resolution, 1, DTYPES[dtype], torch.device("cpu"))
        for output in every_output(unet, **inputs):
            assert output.isfinite().all()
        assert output.float().std() > 0.01
        assert output.float().abs().max() < 1000


@pytest.mark.parametrize("dtype", SMALLEST_NORMAL)
def test_no_activation_is_a_denormal_that_would_slow_a_cpu_down(dtype):
    spec = zoo.get("tiny-sdxl")
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    unet = load(spec, "cpu", name, parts=("unet",)).unet
    torch.manual_seed(0)
    outputs = every_output(unet, **unet_inputs(spec, 128, 2, dtype, torch.device("cpu")))
    for tensor in [*outputs, *unet.parameters()]:
        assert not ((tensor != 0) & (tensor.abs() < SMALLEST_NORMAL[dtype])).any()


def test_random_weights_are_never_constant_and_no_two_rows_are_alike():
    unet = load(zoo.get("tiny-sdxl"), "cpu", parts=("unet",)).unet
    for name, parameter in unet.named_parameters():
        assert parameter.std() > 0, name
        if parameter.ndim == 2:
            assert len(parameter.unique(dim=0)) == len(parameter), name


def test_rows_of_a_matrix_longer_than_the_random_block_still_differ():
    with torch.device("meta"):
        layer = torch.nn.Linear(2**11, 2**11)
    weight = materialise(layer, "cpu").weight
    assert len(weight.unique(dim=0)) == 2**11
    assert weight.mean().abs() < 1e-3
    assert weight.std() == pytest.approx(2**-5.5, rel=0.01)


def test_no_two_matrices_of_one_shape_are_alike():
    unet = load(zoo.get("tiny-sdxl"), "cpu", parts=("unet",)).unet
    matrices = [p.flatten() for p in unet.parameters() if p.ndim > 1]
    for shape in {m.shape for m in matrices}:
        same = torch.stack([m for m in matrices if m.shape == shape])
        assert len(same.unique(dim=0)) == len(same)


def test_the_seed_decides_the_weights():
    def weights(seed):
        unet = load(zoo.get("tiny-koala-700m"), "cpu", parts=("unet",), seed=seed).unet
        return torch.cat([p.flatten() for p in unet.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_positions_of_the_text_encoders_are_restored():
    for encoder in load(zoo.get("tiny-sdxl"), "cpu", parts=("text",)).conditioner.encoders:
        positions = dict(encoder.named_buffers())
        assert [b.tolist() for n, b in positions.items() if n.endswith("position_ids")] == [[list(range(77))]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tiny-koala-1b", "tiny-sdm-v1.4"])
def test_every_weight_has_the_dtype_asked_for(name, dtype):
    components = load(zoo.get(name), "cpu", dtype)
    assert {p.dtype for network in components.networks for p in network.parameters()} == {DTYPES[dtype]}
    assert len(components.networks) == (4 if name == "tiny-koala-1b" else 3)


def test_an_autoencoder_that_overflows_in_fp16_is_loaded_in_fp32_beside_fp16_networks():
    components = load(zoo.get("tiny-sdxl"), "cpu", "fp16")
    assert components.autoencoder.dtype == torch.float32
    assert {p.dtype for p in components.unet.parameters()} == {torch.float16}
    assert load(zoo.get("tiny-sdxl"), "cpu", "bf16").autoencoder.dtype == torch.bfloat16


@pytest.mark.parametrize("name", [name for name in TWINS if isinstance(zoo.get(name).conditioning, ClipText)])
def test_the_components_of_every_twin_make_an_image_in_diffusers_own_pipeline(name):
    pipeline = diffusers_pipeline(load(zoo.get(name), "cpu"))
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red apple", height=64, width=64, num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert image.std() > 0.01


@pytest.mark.parametrize(
    ("wrong", "known"),
    [
        ({"dtype": "fp8"}, "bf16, fp16, fp32"),
        ({"parts": ("vae",)}, "autoencoder, text"),
    ],
)
def test_what_cannot_be_loaded_is_answered_with_what_can(wrong, known):
    with pytest.raises(UnknownName, match=known):
        load(zoo.get("tiny-sdxl"), "cpu", **wrong)


def test_a_buffer_without_a_rule_is_not_left_undefined():
    with torch.device("meta"):
        layer = torch.nn.BatchNorm1d(4)
    with pytest.raises(AssertionError, match="running_mean"):
        materialise(layer, "cpu")


@pytest.mark.proves("loader", name="random", weights="random", remark="the U-Net of koala-700m")
@pytest.mark.fullsize
def test_the_full_size_koala_700m_is_finite_in_bf16():
    spec = zoo.get("koala-700m")
    unet = load(spec, "cpu", "bf16", parts=("unet",)).unet
    with torch.inference_mode():
        output = unet(**unet_inputs(spec, 64, 1, torch.bfloat16, torch.device("cpu")), return_dict=False)[0]
    assert output.isfinite().all()
    assert 0.1 < output.float().std() < 10


def test_building_on_the_meta_device_takes_no_memory_for_weights():
    assert all(p.is_meta for network in meta_networks(zoo.get("sdxl")).values() for p in network.parameters())
