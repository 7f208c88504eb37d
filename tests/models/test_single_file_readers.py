"""What other programs make of our one-file checkpoints."""

from dataclasses import replace

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    infer_diffusers_model_type,
)
from saved_models import (
    FAMILIES,
    FAMILY_TWINS,
    MODELS,
    SDM_V2,
    SDXL,
    SHAPES,
    SPECS,
    assert_equal,
    meta_networks_of,
    meta_original,
    networks_of,
)

from koala.models import single_file, zoo
from koala.models.load import load
from koala.sampling.pipelines import diffusers_pipeline


def with_unlike_widths(spec):
    """diffusers tells SDXL's two encoders apart by their widths, which a twin has equal."""
    first, second = spec.conditioning.encoders
    conditioning = replace(spec.conditioning, encoders=(replace(first, width=2 * first.width), second))
    return replace(spec, conditioning=conditioning, unet=replace(spec.unet, context_dim=2 * first.width + second.width))


def shapes(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("name", MODELS)
def test_diffusers_names_every_tensor_of_every_full_size_unet_as_we_do(name):
    spec = zoo.get(name)
    unet = meta_networks_of(spec, ("unet",))["unet"]
    theirs = convert_ldm_unet_checkpoint(meta_original(spec, ("unet",)), unet.config)
    assert shapes(theirs) == shapes(unet.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_names_every_tensor_of_a_full_size_autoencoder_as_we_do(name):
    spec = zoo.get(name)
    autoencoder = meta_networks_of(spec)["autoencoder"]
    theirs = convert_ldm_vae_checkpoint(meta_original(spec), autoencoder.config)
    assert shapes(theirs) == shapes(autoencoder.state_dict())


@pytest.mark.parametrize(
    ("name", "kind"), [("sdxl", "xl_base"), ("koala-700m", "xl_base"), ("sdm-v1.4", "v1"), ("sdm-v2.1-base", "v2")]
)
def test_diffusers_recognises_the_family_of_a_file(name, kind):
    assert infer_diffusers_model_type(meta_original(zoo.get(name))) == kind


def transformer_depths(stored):
    """Depths of the down path and of the up path, both from the highest resolution on, and of the middle.

    As ComfyUI's model_detection.py defines them: a layer is a block with a residual layer, -1 is a middle without
    attention and -2 none.
    """
    keys = [key.removeprefix("model.diffusion_model.") for key in stored]

    def depth(block):
        start = f"{block}.1.transformer_blocks."
        return len({key.removeprefix(start).split(".")[0] for key in keys if key.startswith(start)})

    def path(name):
        blocks = {int(key.split(".")[1]) for key in keys if key.startswith(name) and ".0.in_layers." in key}
        return [depth(f"{name}.{block}") for block in sorted(blocks)]

    middle = {key.split(".")[1] for key in keys if key.startswith("middle_block.")}
    if middle not in (set(), {"0"}):
        start = "middle_block.1.transformer_blocks."
        return path("input_blocks"), path("output_blocks")[::-1], len({k.split(".")[3] for k in keys if start in k})
    return path("input_blocks"), path("output_blocks")[::-1], -1 if middle else -2


# ComfyUI's lists for these models (comfy/model_detection.py); no other network of its list has the first one.
@pytest.mark.parametrize(
    ("name", "down", "up", "middle"),
    [
        ("sdxl", [0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10], 10),
        ("koala-1b", [0, 2, 6], [0, 0, 2, 2, 6, 6], 6),
        ("koala-700m", [0, 2, 5], [0, 0, 2, 2, 5, 5], -2),
        ("sdm-v1.4", [1, 1, 1, 1, 1, 1, 0, 0], [1] * 9 + [0] * 3, 1),
        ("sdm-v2.1-base", [1, 1, 1, 1, 1, 1, 0, 0], [1] * 9 + [0] * 3, 1),
    ],
)
def test_comfyui_finds_its_published_depths_in_a_file(name, down, up, middle):
    spec = zoo.get(name)
    stored = meta_original(spec, ("unet",))
    assert transformer_depths(stored) == (down, up, middle)
    prefix = "model.diffusion_model."
    context = next(t for key, t in stored.items() if key.endswith("attn2.to_k.weight"))
    assert context.shape[1] == spec.unet.context_dim
    assert stored[f"{prefix}input_blocks.0.0.weight"].shape[:2] == (320, 4)
    assert stored[f"{prefix}out.2.weight"].shape[0] == 4
    sizes = stored.get(f"{prefix}label_emb.0.0.weight")
    assert (None if sizes is None else sizes.shape[1]) == (2816 if spec.unet.pooled_dim else None)


def test_comfyui_would_tell_a_middle_without_attention_from_none():
    assert transformer_depths(meta_original(SHAPES["one residual layer in the middle"], ("unet",)))[2] == -1
    assert transformer_depths(meta_original(SHAPES["three stages"], ("unet",)))[2] == -2


def assert_diffusers_reads(network, part, spec, folder):
    single_file.write(folder / "model.safetensors", {part: network}, spec)
    network.save_config(folder / part)
    found = type(network).from_single_file(str(folder / "model.safetensors"), config=str(folder / part))
    assert_equal(found.state_dict(), network.state_dict())


@pytest.mark.parametrize("name", SPECS)
def test_diffusers_reads_every_unet_of_a_file(name, tmp_path):
    assert_diffusers_reads(networks_of(SPECS[name], ("unet",))["unet"], "unet", SPECS[name], tmp_path)


@pytest.mark.parametrize("name", FAMILY_TWINS)
def test_diffusers_reads_the_autoencoder_of_a_file(name, tmp_path):
    spec = zoo.get(name)
    assert_diffusers_reads(networks_of(spec)["autoencoder"], "autoencoder", spec, tmp_path)


@pytest.mark.parametrize("name", FAMILY_TWINS)
def test_diffusers_reads_the_whole_pipeline_of_a_file(name, tmp_path):
    spec = zoo.get(name)
    if len(spec.conditioning.encoders) == 2:
        spec = with_unlike_widths(spec)
    components = load(spec, "cpu")
    ours = diffusers_pipeline(components)
    ours.save_pretrained(tmp_path / "folder")
    for weights in (tmp_path / "folder").rglob("*.safetensors"):
        weights.unlink()  # the configs alone say what to build
    networks = {"unet": components.unet, "autoencoder": components.autoencoder}
    networks |= {f"text_encoder_{i}": network for i, network in enumerate(components.conditioner.networks)}
    single_file.write(tmp_path / "model.safetensors", networks, spec)
    theirs = type(ours).from_single_file(str(tmp_path / "model.safetensors"), config=str(tmp_path / "folder"))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(ours, part, None) is not None:
            assert_equal(getattr(theirs, part).state_dict(), getattr(ours, part).state_dict())


@pytest.mark.parametrize(("spec", "part"), [(SDXL, "text_encoder_1"), (SDM_V2, "text_encoder_0")])
def test_openclip_reads_its_text_encoder_and_computes_the_same(spec, part):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    encoder = networks_of(spec, ("text",))[part]
    stored = single_file.original({part: encoder}, spec)
    prefix = next(iter(stored)).partition(".model.")[0] + ".model."
    plan = spec.conditioning.encoders[int(part[-1])]
    config = CLIPTextCfg(width=plan.width, heads=plan.heads, layers=plan.layers)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    theirs = CLIP(plan.width, vision, config).eval()
    missing, unexpected = theirs.load_state_dict({k.removeprefix(prefix): t for k, t in stored.items()}, strict=False)
    assert not unexpected
    without = {"logit_scale"} if plan.projected else {"logit_scale", "text_projection"}
    assert {key for key in missing if not key.startswith("visual.")} == without
    tokens = torch.randint(1, 49_000, (2, 77))
    tokens[:, -1] = 49_407
    with torch.inference_mode():
        states = theirs.ln_final(
            theirs.transformer(theirs.token_embedding(tokens) + theirs.positional_embedding, attn_mask=theirs.attn_mask)
        )
        ours = encoder(tokens)
        torch.testing.assert_close(ours.last_hidden_state, states, atol=1e-5, rtol=1e-5)
        if plan.projected:
            torch.testing.assert_close(ours.text_embeds, theirs.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_a_v2_file_has_the_23_layers_that_diffusers_keeps_of_24():
    stored = meta_original(zoo.get("sdm-v2.1-base"), ("text",))
    assert {key.split(".")[4] for key in stored if "resblocks" in key} == {str(n) for n in range(23)}
