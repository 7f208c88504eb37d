"""What a model is, as frozen data that needs no torch: the zoo is written in these words."""

from dataclasses import dataclass
from pathlib import Path

from koala.errors import KoalaError
from koala.models.recipe import Recipe

TOKENIZER = "tokenizer"  # stands among the networks for the file of a sentence encoder's
TRANSFORMER, ADM = "transformer", "adm"  # what the blocks of a U-Net are


@dataclass(frozen=True)
class UNetPlan:
    """A diffusers U-Net: one tuple entry a down stage, the highest resolution first.

    `transformer_depths` counts transformer layers per attention block and is 0 where a stage has no attention. The up
    path mirrors the down path unless `up_transformer_depths` says otherwise, block by block, the lowest resolution
    first. `mid_depth` is 0 for a mid block of one residual layer and None where there is no mid block.

    ADM's `blocks` attend without a transformer around the attention, which counts as a depth of 1; their U-Net is
    preconditioned as EDM's and predicts the clean sample.
    """

    channels: tuple[int, ...]
    transformer_depths: tuple[int, ...]
    layers_per_block: int
    mid_depth: int | None
    heads: tuple[int, ...]
    context_dim: int | None  # width of the states that cross-attention reads; None: the U-Net has none
    pooled_dim: int | None = None  # SDXL's size, crop and pooled-text conditioning; None: the U-Net has none
    time_id_dim: int = 256  # embedding width of each of the six size and crop numbers
    class_labels: int | None = None  # rows of the class-embedding table; None: the U-Net has none
    linear_projection: bool = True
    upcast_attention: bool = False
    sample_channels: int = 4  # of what it denoises: 4 in latent space, 3 in pixel space
    up_transformer_depths: tuple[tuple[int, ...], ...] | None = None
    blocks: str = TRANSFORMER

    def __post_init__(self) -> None:
        assert len(self.channels) == len(self.transformer_depths) == len(self.heads)
        deepest = self.transformer_depths[-1]
        assert self.mid_depth in (None, 0) or deepest in (0, self.mid_depth), "a mid block has its last stage's depth"
        if self.blocks == ADM:
            assert set(self.transformer_depths) <= {0, 1} and self.mid_depth == 1, "ADM attends once a block"

    @property
    def unit(self) -> int:
        """What the sides of a sample are multiples of: ADM's resampling makes the same steps down and up."""
        return 2 ** (len(self.channels) - 1) if self.blocks == ADM else 1


@dataclass(frozen=True)
class TextEncoderPlan:
    """A CLIP text transformer; `projected` ones also give the pooled embedding that SDXL conditions on."""

    width: int
    layers: int
    heads: int
    activation: str
    projected: bool
    pad_token: str
    max_tokens: int = 77


@dataclass(frozen=True)
class ClipText:
    """Prompts through one or several CLIP text encoders whose states stand side by side.

    `penultimate` takes the states before the last layer (SDXL), else the last ones after their norm (Stable Diffusion).
    `zero_unconditional`: without a negative prompt, guidance contrasts with zeros instead of the empty prompt.
    """

    encoders: tuple[TextEncoderPlan, ...]
    penultimate: bool = False
    zero_unconditional: bool = False

    @property
    def context_shape(self) -> tuple[int, int]:
        """Tokens and width of the states."""
        return self.encoders[0].max_tokens, sum(plan.width for plan in self.encoders)


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a distribution of the package index."""

    distribution: str
    version: str
    path: str  # inside the installed packages
    sha256: str

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class HubFile:
    """A pretrained file or folder on a model hub."""

    repository: str
    path: str = ""
    revision: str | None = None
    package: PackagedFile | None = None  # which holds the same file

    def __str__(self) -> str:
        return "/".join(part for part in (self.repository, self.path) if part)


@dataclass(frozen=True)
class SentencePlan:
    """A BERT that was trained to tell sentences apart; its `tokenizer` is one file. Both None: a random twin's."""

    width: int
    layers: int
    heads: int
    max_tokens: int
    weights: HubFile | None
    tokenizer: HubFile | None
    vocabulary: int = 30_522


@dataclass(frozen=True)
class SentenceStates:
    """Prompts through a sentence encoder: the states of all tokens, zeros where a text is over.

    Without a negative prompt, guidance contrasts with the empty prompt.
    """

    encoder: SentencePlan

    @property
    def context_shape(self) -> tuple[int, int]:
        """Tokens and width of the states."""
        return self.encoder.max_tokens, self.encoder.width


@dataclass(frozen=True)
class ClassLabels:
    """Class names as prompts; one row more in the U-Net's table stands for no class, which guidance needs.

    Not `droppable`: there is no such row.
    """

    names: tuple[str, ...]
    droppable: bool = True
    dataset: str = ""  # whose numbered classes they are, if that is all that the names say

    context_shape = None


Conditioning = ClipText | SentenceStates | ClassLabels


@dataclass(frozen=True)
class AutoencoderPlan:
    """A KL autoencoder with four latent channels; each channel entry but the last halves the side."""

    channels: tuple[int, ...]
    layers_per_block: int
    scaling_factor: float
    upcast_to_fp32: bool  # an fp16 pipeline decodes in fp32 (diffusers' force_upcast)
    weights: HubFile | None = None  # None: the `vae` folder of the model's own pipeline
    fp16_fix: HubFile | None = None  # weights of this topology that decode in fp16
    tiny: HubFile | None = None  # a tiny autoencoder of the same latent space

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel along a side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class TinyAutoencoderPlan:
    """A distilled autoencoder of a few convolutions (diffusers' `AutoencoderTiny`), four latent channels."""

    channels: tuple[int, ...]
    weights: HubFile | None
    upcast_to_fp32 = False

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel along a side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class PatchPlan:
    """No network: squares of `side` x `side` pixels as channels of one; white noise stays white noise."""

    side: int
    upcast_to_fp32 = False
    weights = None

    @property
    def downscale(self) -> int:
        """Image pixels per sample along a side."""
        return self.side


Coder = AutoencoderPlan | TinyAutoencoderPlan | PatchPlan


@dataclass(frozen=True)
class Pretrained:
    """Where released weights are: a diffusers pipeline folder, and what replaces or adapts its U-Net."""

    pipeline: HubFile
    unet: HubFile | None = None  # a state dict in the place of the pipeline's U-Net
    lora: HubFile | None = None  # an adapter that is fused into the U-Net


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the zoo: topology, conditioning, recipe and where its pretrained weights are published."""

    name: str
    title: str
    unet: UNetPlan
    conditioning: Conditioning
    autoencoder: Coder | None  # None: it draws pixels
    recipe: Recipe
    resolution: int  # native side of the image in pixels
    unet_params: int | None  # the exact count expected; None where no source states one
    weights: Pretrained | None  # None: never released, or a random twin
    source: str
    license: str
    prediction: str = "epsilon"  # what the U-Net predicts: epsilon, v_prediction or sample
    noising: str = "sd"  # how noise is added (koala/models/noising.py): sd or edm
    twin_of: str | None = None  # the entry whose topology this small twin repeats
    folder: str | None = None  # where the weights of a model lie that was trained here
    attached: str | None = None  # where this repository has a copy of them
    notes: str = ""

    def __post_init__(self) -> None:
        shape = self.conditioning.context_shape
        assert self.unet.context_dim == (shape and shape[1]), self.name
        if self.unet.blocks == ADM:
            assert (self.noising, self.prediction) == ("edm", "sample"), self.name

    @property
    def home(self) -> str | None:
        """The folder of a model that was trained here; until it is there, the copy in this repository."""
        if self.folder and self.attached and not Path(self.folder).is_dir() and Path(self.attached).is_dir():
            return self.attached
        return self.folder

    @property
    def own_weights(self) -> str:
        """Where its weights are by default: its folder, the hub, or random where none were released."""
        return self.home or ("hub" if self.weights else "random")

    @property
    def downscale(self) -> int:
        """Image pixels per pixel of what the U-Net denoises, along a side."""
        return self.autoencoder.downscale if self.autoencoder else 1

    @property
    def text_encoders(self) -> tuple[TextEncoderPlan | SentencePlan, ...]:
        """The text encoders; none where prompts are classes."""
        if isinstance(self.conditioning, SentenceStates):
            return (self.conditioning.encoder,)
        return self.conditioning.encoders if isinstance(self.conditioning, ClipText) else ()

    def apart(self, network: str) -> HubFile | None:
        """Where a network comes from that is no part of the released pipeline; None: it is part of it, or unknown."""
        sentence = self.conditioning.encoder if isinstance(self.conditioning, SentenceStates) else None
        return {
            "autoencoder": self.autoencoder.weights if self.autoencoder else None,
            "text_encoder_0": sentence.weights if sentence else None,
            TOKENIZER: sentence.tokenizer if sentence else None,
        }.get(network)

    def check_side(self, side: int) -> None:
        """Raise a `KoalaError` unless the model can draw images with a side of that many pixels."""
        unit = self.downscale * self.unet.unit
        if side < unit or side % unit:
            raise KoalaError(f"{self.name} draws multiples of {unit} pixels, which {side} is not")
