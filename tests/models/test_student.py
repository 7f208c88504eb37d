"""Students written at tiny size, held against surgery on a live teacher, which the package itself never does."""

import zlib
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from koala import __version__
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.student import fresh, unet_weights, write_student
from koala.models.unet import build_unet, up_depths
from koala.models.weights.checkpoint import Checkpoint, Renamed

FILE = "diffusion_pytorch_model.safetensors"
SDXL, KOALA = zoo.get("tiny-sdxl"), zoo.get("tiny-koala-700m")
PAIRS = [
    ("tiny-sdxl", "tiny-koala-1b"),
    ("tiny-sdxl", "tiny-koala-700m"),
    ("tiny-sdxl", "tiny-ssd-1b"),
    ("tiny-sdm-v1.4", "tiny-bk-sdm-small"),
    ("tiny-realistic-vision-v4.0", "tiny-segmind-tiny-sd"),
    ("tiny-sdm-v2.1-base", "tiny-bk-sdm-v2-base"),
]


@pytest.fixture(scope="module")
def sdxl():
    """A teacher with random weights; not to be changed."""
    return unet_weights(SDXL, "random")


def wider(spec, width):
    """`spec` with a conditioning of another width."""
    first, *others = spec.conditioning.encoders
    conditioning = replace(spec.conditioning, encoders=(replace(first, width=width), *others))
    return replace(
        spec,
        conditioning=conditioning,
        unet=replace(spec.unet, context_dim=conditioning.context_shape[1]),
    )


def shorten(block, layers):
    block.transformer_blocks = block.transformer_blocks[:layers]


def cut(unet, student):
    """The live teacher `unet` cut down to the plan `student`, as distill-sd does it."""
    stages, last = len(student.channels), student.layers_per_block
    unet.down_blocks, unet.up_blocks = unet.down_blocks[:stages], unet.up_blocks[-stages:]
    unet.down_blocks[-1].downsamplers = None
    for stage, depth in zip(unet.down_blocks, student.transformer_depths, strict=True):
        stage.resnets = stage.resnets[:last]
        if hasattr(stage, "attentions"):
            stage.attentions = stage.attentions[:last]
            for block in stage.attentions:
                shorten(block, depth)
    for stage, depths in zip(unet.up_blocks, up_depths(student), strict=True):
        stage.resnets = nn.ModuleList([*stage.resnets[:last], stage.resnets[-1]])
        if hasattr(stage, "attentions"):
            stage.attentions = nn.ModuleList([*stage.attentions[:last], stage.attentions[-1]])
            for block, depth in zip(stage.attentions, depths, strict=True):
                shorten(block, depth)
    if student.mid_depth is None:
        unet.mid_block = None
    elif student.mid_depth == 0:
        unet.mid_block.attentions, unet.mid_block.resnets = nn.ModuleList(), unet.mid_block.resnets[:1]
    else:
        shorten(unet.mid_block.attentions[0], student.mid_depth)
    return unet


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_diffusers_loads_the_student_that_surgery_on_the_live_teacher_gives(teacher, student, tmp_path):
    teacher, student = zoo.get(teacher), zoo.get(student)
    out = tmp_path / "student"
    written = write_student(teacher, student, unet_weights(teacher, "random"), out)
    found, report = UNet2DConditionModel.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    expected = cut(load(teacher, "cpu", parts=("unet",)).unet, student.unet).state_dict()
    assert found.state_dict().keys() == expected.keys()
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert written.num_params == sum(p.numel() for p in found.parameters())
    assert written.num_bytes == (out / FILE).stat().st_size


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-ssd-1b", "tiny-bk-sdxl"])
def test_the_config_describes_the_network_as_diffusers_would(name, sdxl, tmp_path):
    student = zoo.get(name)
    write_student(SDXL, student, sdxl, tmp_path / "ours")
    build_unet(student.unet, student.resolution // student.downscale).save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["config.json", FILE]
    ours, theirs = ((tmp_path / folder / "config.json").read_text() for folder in ("ours", "theirs"))
    assert ours == theirs
    assert '"_class_name": "UNet2DConditionModel"' in ours


def test_our_own_loader_loads_the_folder(sdxl, tmp_path):
    write_student(SDXL, KOALA, sdxl, tmp_path / "student")
    unet = load(KOALA, "cpu", weights=str(tmp_path / "student"), parts=("unet",)).unet
    assert torch.equal(unet.conv_out.weight, sdxl.tensor("conv_out.weight"))


def test_the_file_says_what_it_is_and_where_it_comes_from(sdxl, tmp_path):
    write_student(SDXL, KOALA, sdxl, tmp_path / "student")
    with safe_open(tmp_path / "student" / FILE, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "koala_model": "tiny-koala-700m",
            "koala_teacher": "tiny-sdxl",
            "koala_version": __version__,
        }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_tensors_are_converted_or_keep_the_dtype_of_the_teacher(dtype, sdxl, tmp_path):
    written = write_student(SDXL, KOALA, sdxl, tmp_path / "student", dtype)
    assert written.dtypes == (dtype or torch.float32,)
    key = "up_blocks.0.attentions.1.proj_in.weight"
    expected = sdxl.tensor(key.replace("attentions.1", "attentions.2")).to(dtype or torch.float32)
    assert torch.equal(load_file(tmp_path / "student" / FILE)[key], expected)


def save(unet, folder, **options):
    unet.save_pretrained(folder, **options)
    return folder


LAYOUTS = {
    "pipeline folder": lambda unet, path: save(unet, path / "unet").parent,
    "unet folder": save,
    "shards": lambda unet, path: save(unet, path, max_shard_size="9MB"),
    "fp16 variant": lambda unet, path: save(unet, path, variant="fp16"),
    "one file": lambda unet, path: save(unet, path) / FILE,
}


@pytest.mark.filterwarnings("ignore:.*is in fp16, and no file in full precision")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_teacher_may_lie_in_any_of_diffusers_layouts(layout, sdxl, tmp_path):
    unet = load(SDXL, "cpu", parts=("unet",)).unet
    weights = LAYOUTS[layout](unet, tmp_path / "teacher")
    source = unet_weights(SDXL, str(weights))
    assert isinstance(source, Checkpoint)
    assert len(source.paths) == (1 if layout != "shards" else len(list((tmp_path / "teacher").glob("*-of-*"))))
    write_student(SDXL, KOALA, source, tmp_path / "from files")
    write_student(SDXL, KOALA, sdxl, tmp_path / "from memory")
    found, expected = (load_file(tmp_path / name / FILE) for name in ("from files", "from memory"))
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_checkpoint_with_the_original_names_is_read_too(tmp_path):
    from koala.models import single_file

    unet = load(SDXL, "cpu", parts=("unet",)).unet
    single_file.write(tmp_path / "sdxl.safetensors", {"unet": unet}, SDXL)
    source = unet_weights(SDXL, str(tmp_path / "sdxl.safetensors"))
    write_student(SDXL, KOALA, source, tmp_path / "student")
    found = load_file(tmp_path / "student" / FILE)
    key = "down_blocks.2.attentions.0.transformer_blocks.4.attn2.to_k.weight"
    assert torch.equal(found[key], unet.get_parameter(key))


def test_a_fresh_tensor_is_drawn_as_its_layer_draws_it(sdxl, tmp_path):
    student = wider(KOALA, 48)
    written = write_student(SDXL, student, sdxl, tmp_path / "student")
    assert {key.split(".")[-3:-1] == ["attn2", "to_k"] for key in written.inheritance.fresh} == {True, False}
    found = UNet2DConditionModel.from_pretrained(tmp_path / "student").state_dict()
    for key in written.inheritance.fresh:
        tensor, bound = found[key], found[key].shape[1] ** -0.5
        assert tensor.abs().max() <= bound
        assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert abs(tensor.mean()) < 0.1 * bound


def test_fresh_tensors_follow_the_seed_and_the_layer_and_leave_the_global_generator_alone():
    network, state = meta_networks(KOALA, ("unet",))["unet"], torch.get_rng_state()
    key, other = (f"up_blocks.0.attentions.{i}.transformer_blocks.0.attn2.to_k.weight" for i in (0, 1))
    assert torch.equal(fresh(network, key, 1), fresh(network, key, 1))
    assert not torch.equal(fresh(network, key, 1), fresh(network, key, 2))
    assert not torch.equal(fresh(network, key, 1), fresh(network, other, 1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "key", ["conv_in.weight", "conv_in.bias", "conv_norm_out.weight", "time_embedding.linear_1.bias"]
)
def test_fresh_tensors_are_those_of_a_newly_built_layer(key):
    path, _, name = key.rpartition(".")
    built = build_unet(KOALA.unet).get_submodule(path)
    torch.default_generator.manual_seed(zlib.crc32(f"5 {path}".encode()))
    built.reset_parameters()
    found = fresh(meta_networks(KOALA, ("unet",))["unet"], key, 5)
    assert torch.equal(found, built.get_parameter(name))


def test_fresh_tensors_have_the_dtype_of_the_inherited_ones(sdxl, tmp_path):
    half = Renamed("half", {key: sdxl.tensor(key).half() for key in sdxl.shapes})
    assert write_student(SDXL, wider(KOALA, 48), half, tmp_path / "student").dtypes == (torch.float16,)


def test_weights_of_another_model_are_recognised(tmp_path):
    with pytest.raises(KoalaError, match=r"not the U-Net of tiny-sdxl: .* missing.* It is the U-Net of tiny-koala-1b"):
        write_student(SDXL, KOALA, unet_weights(zoo.get("tiny-koala-1b"), "random"), tmp_path / "student")
    assert not list(tmp_path.iterdir())


def test_quantised_weights_are_refused_by_the_name_of_the_tensor(sdxl, tmp_path):
    quantised = Renamed("file.safetensors", {key: sdxl.tensor(key).to(torch.int8) for key in sdxl.shapes})
    with pytest.raises(KoalaError, match=r"file\.safetensors: conv_in\.weight is torch\.int8; quantised"):
        write_student(SDXL, KOALA, quantised, tmp_path / "student")
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_no_teacher_until_it_is_fused(tmp_path, monkeypatch):
    spec = zoo.get("dmd2-sdxl-4step-lora")
    folder = tmp_path / spec.weights.pipeline.repository / "unet"
    folder.mkdir(parents=True)
    save_file({"conv_in.weight": torch.zeros(1)}, folder / FILE)
    adapter = tmp_path / spec.weights.lora.repository / spec.weights.lora.path
    adapter.parent.mkdir(parents=True)
    save_file({"unet.lora_A.weight": torch.zeros(1)}, adapter)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path))
    with pytest.raises(KoalaError, match="is an adapter; fuse it first"):
        unet_weights(spec, "hub")


@dataclass
class Asked:
    """A teacher that knows which of its tensors were asked for."""

    tensors: Renamed
    asked: set

    @property
    def shapes(self):
        return self.tensors.shapes

    def tensor(self, key):
        self.asked.add(key)
        return self.tensors.tensor(key)


def test_what_the_student_does_not_keep_is_not_read(sdxl, tmp_path):
    source = Asked(sdxl, set())
    written = write_student(SDXL, KOALA, source, tmp_path / "student")
    assert source.asked == set(written.inheritance.inherited.values())
    assert len(source.asked) < len(source.shapes) / 2
