"""What a U-Net is told beside the noisy sample, and who makes it from prompts. A new kind is one class and one line."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from koala.errors import KoalaError
from koala.models.spec import ClassLabels, ClipText, ModelSpec, SentenceStates
from koala.models.tokenizers import clip_tokenizer, sentence_tokenizer


class PromptTruncated(UserWarning):
    """A prompt was longer than the text encoder reads."""


@dataclass(frozen=True)
class Condition:
    """One row per image of the batch; a field that a model does not have is None."""

    context: Float[Tensor, "n tokens width"] | None = None
    pooled: Float[Tensor, "n pooled"] | None = None
    labels: Int[Tensor, "n"] | None = None  # noqa: F821

    def map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """Every field changed."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Condition(**{name: None if value is None else change(value) for name, value in values.items()})

    @classmethod
    def stacked(cls, conditions: Sequence["Condition"]) -> "Condition":
        """The rows of all of them, in order."""
        columns = {f.name: [getattr(condition, f.name) for condition in conditions] for f in fields(cls)}
        return cls(**{name: None if rows[0] is None else torch.cat(rows) for name, rows in columns.items()})

    def below(self, other: "Condition") -> "Condition":
        """The rows of `other`, then these."""
        return Condition.stacked((other, self))

    def unet_arguments(self, time_ids: Tensor | None) -> dict[str, Any]:
        """Keyword arguments of diffusers' U-Net; `time_ids` are SDXL's six sizes, one row an image."""
        arguments: dict[str, Any] = {"encoder_hidden_states": self.context, "class_labels": self.labels}
        if self.pooled is not None:
            arguments["added_cond_kwargs"] = {"text_embeds": self.pooled, "time_ids": time_ids}
        return arguments


@runtime_checkable
class Conditioner(Protocol):
    """Prompts -> `Condition`."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks it runs."""
        ...

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt."""
        ...

    def guided(self, prompts: Sequence[str], negatives: Sequence[str] | None) -> Condition:
        """What guidance contrasts with, one row per prompt, then the rows of the prompts."""
        ...


class ClipConditioner:
    """CLIP text encoders side by side; equal prompts of a batch are encoded once."""

    def __init__(self, plan: ClipText, encoders: tuple[nn.Module, ...]):
        self.plan, self.encoders = plan, encoders
        self.tokenizers: tuple[CLIPTokenizer, ...] = tuple(
            clip_tokenizer(encoder.pad_token, encoder.max_tokens) for encoder in plan.encoders
        )

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The text encoders."""
        return self.encoders

    def encode(self, prompts: Sequence[str]) -> Condition:
        """States of all encoders side by side, and the pooled embedding of the projected one."""
        self._warn_of_long(prompts)
        unique = list(dict.fromkeys(prompts))
        contexts, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            tokens = tokenizer(unique, padding="max_length", truncation=True, return_tensors="pt").input_ids
            output = encoder(tokens.to(_device_of(encoder)), output_hidden_states=self.plan.penultimate)
            contexts.append(output.hidden_states[-2] if self.plan.penultimate else output.last_hidden_state)
            pooled = output.text_embeds if "text_embeds" in output else pooled
        return _row_each(Condition(torch.cat(contexts, dim=-1), pooled), unique, prompts)

    def guided(self, prompts: Sequence[str], negatives: Sequence[str] | None) -> Condition:
        """Without negative prompts: zeros where the model was trained so (SDXL), else the empty prompt."""
        if negatives is None and self.plan.zero_unconditional:
            condition = self.encode(prompts)
            return condition.below(condition.map(torch.zeros_like))
        return self.encode([*(negatives or [""] * len(prompts)), *prompts])

    def _warn_of_long(self, prompts: Sequence[str]) -> None:
        tokenizer = self.tokenizers[0]
        for prompt in dict.fromkeys(prompts):
            tokens = tokenizer(prompt, verbose=False).input_ids
            if len(tokens) > tokenizer.model_max_length:
                lost = tokenizer.decode(tokens[tokenizer.model_max_length - 1 : -1])
                told = f"CLIP reads {tokenizer.model_max_length} tokens; this end of the prompt is left out: {lost!r}"
                warnings.warn(told, PromptTruncated, stacklevel=2)


class SentenceConditioner:
    """A sentence encoder; equal prompts of a batch are encoded once.

    `tokenizer` is its file; None: words get numbers of their own, which will do for random weights.
    """

    def __init__(self, plan: SentenceStates, encoder: nn.Module, tokenizer: Path | None):
        self.plan, self.networks = plan, (encoder,)
        self._tokenize = sentence_tokenizer(tokenizer, plan.encoder.vocabulary)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """States of all tokens; zeros after the last one, which attention without biases reads as nothing."""
        (encoder,), most = self.networks, self.plan.encoder.max_tokens
        unique = list(dict.fromkeys(prompts))
        rows = [self._tokenize(text) for text in unique]
        for text, row in zip(unique, rows, strict=True):
            if len(row) > most:
                told = f"this model reads {most} of the {len(row)} tokens of the prompt {text!r}"
                warnings.warn(told, PromptTruncated, stacklevel=2)
        kept = [row if len(row) <= most else (*row[: most - 1], row[-1]) for row in rows]
        tokens = torch.tensor([[*row, *[0] * (most - len(row))] for row in kept], device=_device_of(encoder))
        real = torch.tensor([[place < len(row) for place in range(most)] for row in kept], device=tokens.device)
        states = encoder(tokens, attention_mask=real.long()).last_hidden_state
        return _row_each(Condition(states * real[..., None].to(states.dtype)), unique, prompts)

    def guided(self, prompts: Sequence[str], negatives: Sequence[str] | None) -> Condition:
        """Without negative prompts: the empty one."""
        return self.encode([*(negatives or [""] * len(prompts)), *prompts])


class ClassConditioner:
    """Class names as prompts; the row after the last class stands for none."""

    networks: tuple[nn.Module, ...] = ()

    def __init__(self, plan: ClassLabels, device: torch.device):
        self._rows = {name: row for row, name in enumerate(plan.names)}
        self._droppable = plan.droppable
        self._device = device

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The table row of each class name."""
        for prompt in prompts:
            if prompt not in self._rows:
                known = ", ".join(list(self._rows)[:10])
                raise KoalaError(f"this model draws classes, and {prompt!r} is none of them; the first ones: {known}")
        return Condition(labels=torch.tensor([self._rows[prompt] for prompt in prompts], device=self._device))

    def guided(self, prompts: Sequence[str], negatives: Sequence[str] | None) -> Condition:
        """Without negative classes: the row of no class, which not every model has."""
        if negatives is None and not self._droppable:
            raise KoalaError("this model knows no image without a class, which guidance would contrast: --guidance 1")
        none = Condition(labels=torch.full((len(prompts),), len(self._rows), device=self._device))
        return self.encode(prompts).below(none if negatives is None else self.encode(negatives))


def build_conditioner(
    spec: ModelSpec, networks: tuple[nn.Module, ...], device: torch.device, tokenizer: Path | None = None
) -> Conditioner:
    """The conditioner of `spec` around its loaded text encoders; class labels need none.

    `tokenizer` is the file of a sentence encoder's; those of CLIP are known.
    """
    if isinstance(spec.conditioning, ClassLabels):
        return ClassConditioner(spec.conditioning, device)
    if isinstance(spec.conditioning, SentenceStates):
        return SentenceConditioner(spec.conditioning, networks[0], tokenizer)
    return ClipConditioner(spec.conditioning, networks)


def random_condition(spec: ModelSpec, n: int, dtype: torch.dtype, device: torch.device) -> Condition:
    """Random values in the shapes that `spec`'s U-Net takes, drawn from torch's global generator."""
    shape, pooled, labels = spec.conditioning.context_shape, spec.unet.pooled_dim, spec.unet.class_labels
    return Condition(
        None if shape is None else torch.randn(n, *shape, device=device).to(dtype),
        None if pooled is None else torch.randn(n, pooled, device=device).to(dtype),
        None if labels is None else torch.randint(labels, (n,), device=device),
    )


def size_ids(
    image: tuple[int, int], original: tuple[int, int] | None, crop: tuple[int, int], n: int
) -> Float[Tensor, "n 6"]:
    """SDXL's size conditioning: original size, crop corner and target size, each (height, width) in pixels."""
    return torch.tensor([*(original or image), *crop, *image], dtype=torch.float32).repeat(n, 1)


def _row_each(encoded: Condition, unique: Sequence[str], prompts: Sequence[str]) -> Condition:
    """A row for each prompt out of those of the different ones."""
    if len(unique) == len(prompts):
        return encoded
    rows = [unique.index(prompt) for prompt in prompts]
    return encoded.map(lambda field: field[torch.tensor(rows, device=field.device)])


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
