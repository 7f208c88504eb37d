"""CLIP text encoders: OpenAI's ones lie in the file as transformers names them, OpenCLIP's ones as OpenCLIP does."""

from collections.abc import Sequence

from koala.models.ldm_names.rules import Layout, Rule, renamed
from koala.models.spec import TextEncoderPlan

_OPENAI_ACTIVATION = "quick_gelu"  # OpenCLIP's encoders use the exact one
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def layout(encoders: Sequence[TextEncoderPlan], index: int) -> Layout:
    """Encoder `index` of `encoders`.

    Stable Diffusion calls its only encoder `cond_stage_model`; SDXL, whose U-Net reads a pooled embedding too, has a
    `conditioner` with a list of them.
    """
    plan = encoders[index]
    many = len(encoders) > 1 or plan.projected
    owner = f"conditioner.embedders.{index}" if many else "cond_stage_model"
    if plan.activation == _OPENAI_ACTIVATION:
        return Layout(f"{owner}.transformer.", _openai(plan), r"logit_scale|text_projection\.weight|.*position_ids")
    # An official file of Stable Diffusion v2 holds the last layer, whose output nothing reads, and the projection.
    unused = "" if plan.projected else rf"|text_projection|transformer\.resblocks\.{plan.layers}\."
    return Layout(f"{owner}.model.", _openclip(plan), rf"logit_scale|attn_mask|.*position_ids{unused}")


def _body(plan: TextEncoderPlan) -> str:
    """What transformers puts before the names of the transformer: nothing, unless a projection stands beside it."""
    return "text_model." if plan.projected else ""


def _openai(plan: TextEncoderPlan) -> list[Rule]:
    modules = ("embeddings", "encoder", "final_layer_norm")
    found = [Rule(f"{_body(plan)}{module}", f"text_model.{module}") for module in modules]
    return [*found, Rule("text_projection", "text_projection")]


def _openclip(plan: TextEncoderPlan) -> list[Rule]:
    body = _body(plan)
    found = [
        Rule(f"{body}embeddings.token_embedding", "token_embedding"),
        Rule(f"{body}embeddings.position_embedding.weight", "positional_embedding"),
        Rule(f"{body}final_layer_norm", "ln_final"),
        Rule("text_projection.weight", "text_projection", "transposed"),
    ]
    for layer in range(plan.layers):
        ours, original = f"{body}encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        found += renamed(ours, original, _BLOCK)
        for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
            for kind in ("weight", "bias"):
                fused = f"{original}.attn.in_proj_{kind}"
                found.append(Rule(f"{ours}.self_attn.{name}.{kind}", fused, third=third))
    return found
