"""Tiny pipelines of four families, built from configuration and saved as diffusers saves them, without a network."""

import json
import shutil
import string
from collections import Counter
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from koala.models.tokenizers import clip_tokenizer

WIDTH = 32
SIDE = 64


def t5_tokenizer():
    """A unigram tokenizer over single characters: T5's three special tokens, its space, and printable ASCII."""
    symbols = [*string.ascii_letters, *string.digits, *string.punctuation]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0), *((c, -3.0) for c in symbols)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def t5_encoder(width=WIDTH):
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def clip_encoder(kind=CLIPTextModel):
    return kind(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=2,
            projection_dim=WIDTH,
            bos_token_id=49_406,
            eos_token_id=49_407,
        )
    )


def autoencoder(**options):
    """Like the published ones: 8 pixels to a latent one."""
    return AutoencoderKL(
        block_out_channels=(WIDTH,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        **options,
    )


def pixart():
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=SIDE // 8,
    )
    return PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def sd3():
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.06),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=t5_encoder(2 * WIDTH),
        tokenizer_3=t5_tokenizer(),
    )


def flux():
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def sdxl():
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(WIDTH, WIDTH),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer("!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )


FAMILIES = {"pixart": pixart, "sd3": sd3, "flux": flux, "sdxl": sdxl}
ROWS = {"pixart": 2, "sd3": 2, "flux": 1, "sdxl": 2}  # of the denoiser for an image and step: guided or not


def save(family: str, folder: Path, **how) -> Path:
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder, **how)
    return folder


def without_weights(folder: Path, target: Path) -> Path:
    """A copy that holds only configurations and vocabularies."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json")))


def rewrite(path: Path, **changes) -> None:
    """Change keys of a JSON object; a value of None takes the key out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def drawn(call):
    call.prepare()
    return call.run()


def count_of(call):
    """How often each span stands in the last call."""
    return Counter(span.name for span in call.phases.spans())
