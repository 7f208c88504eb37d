"""What a model is, as frozen data that needs no torch: the zoo is written in these words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetPlan:
    """A diffusers U-Net: one tuple entry a down stage, the highest resolution first.

    `transformer_depths` counts transformer layers per attention block and is 0 where a stage has no attention;
    a mid block, where there is one, has the depth of the last stage. The up path mirrors the down path.
    """

    channels: tuple[int, ...]
    transformer_depths: tuple[int, ...]
    layers_per_block: int
    mid_block: bool
    heads: tuple[int, ...]
    context_dim: int
    pooled_dim: int | None = None  # SDXL's size, crop and pooled-text conditioning; None: the U-Net has none
    time_id_dim: int = 256  # embedding width of each of the six size and crop numbers
    linear_projection: bool = True

    def __post_init__(self) -> None:
        assert len(self.channels) == len(self.transformer_depths) == len(self.heads)


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
class AutoencoderPlan:
    """A KL autoencoder with four latent channels; each channel entry but the last halves the side."""

    channels: tuple[int, ...]
    layers_per_block: int
    scaling_factor: float
    upcast_to_fp32: bool  # an fp16 pipeline decodes in fp32 (diffusers' force_upcast)

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel along a side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class Recipe:
    """How the authors sample: scheduler name, number of denoising steps, guidance scale."""

    scheduler: str
    steps: int
    guidance: float
    timestep_spacing: str = "leading"

    @property
    def guided(self) -> bool:
        """Whether a step runs the U-Net on a conditional and an unconditional half (classifier-free guidance)."""
        return self.guidance > 1


@dataclass(frozen=True)
class HubFile:
    """A pretrained file or folder on a model hub."""

    repository: str
    path: str = ""
    revision: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the zoo: topology, conditioning, recipe and where its pretrained weights are published."""

    name: str
    title: str
    unet: UNetPlan
    text_encoders: tuple[TextEncoderPlan, ...]
    autoencoder: AutoencoderPlan
    recipe: Recipe
    resolution: int  # native side of the image in pixels
    unet_params: int | None  # the exact count expected; None where no source states one
    weights: HubFile | None  # None: never released, or a random twin
    source: str
    license: str
    twin_of: str | None = None  # the entry whose topology this small twin repeats
    notes: str = ""

    def __post_init__(self) -> None:
        assert self.unet.context_dim == sum(t.width for t in self.text_encoders), self.name
