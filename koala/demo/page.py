"""The demo's page: what to draw on the left, two models side by side on the right."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine

import gradio as gr

from koala.demo.studio import Drawn, Studio, Wish
from koala.errors import KoalaError
from koala.harness.tables import gib, significant

OWN = "the model's own"
STEPS = (OWN, "1", "4", "10", "25")
EXAMPLES = ("a red heart", "woman astronaut with dark skin", "a slice of pizza", "grinning face", "blue car")
LEAST_SHOWN = 320  # pixels of a side
_SECONDS = significant(3)
Shown = tuple[Any, str]


def build(studio: Studio, models: Sequence[str]) -> gr.Blocks:
    """The page of these models; the first two stand there to begin with."""

    def draw(
        left: str, right: str, prompt: str, negative: str, steps: str, guidance: str, seed: float | None, tiny: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Both images, one after the other: the first shows while the second is drawn."""
        try:
            scale, count = number(guidance), None if steps == OWN else int(steps)
        except KoalaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        wishes = [Wish(model, prompt, int(seed or 0), count, scale, negative, tiny) for model in (left, right)]
        first = shown(studio, wishes[0])
        yield (*first, None, "drawing ...")
        yield (*first, *shown(studio, wishes[1]))

    with gr.Blocks(title="KOALA demo", analytics_enabled=False) as page:
        gr.Markdown("# KOALA demo\nTwo models, the same prompt and seed. Nothing leaves this machine.")
        with gr.Row():
            with gr.Column(scale=1):
                prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, elem_id="prompt")
                negative = gr.Textbox("", label="Negative prompt", elem_id="negative")
                steps = gr.Radio(STEPS, value=OWN, label="Steps", elem_id="steps")
                guidance = gr.Textbox("", label="Guidance", placeholder=OWN, elem_id="guidance")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                tiny = gr.Checkbox(False, label="Tiny VAE", elem_id="tiny")
                button = gr.Button("Draw", variant="primary", elem_id="draw")
            sides = [_side(models, place, place_id) for place, place_id in ((0, "left"), (1, "right"))]
        gr.Examples([[example] for example in EXAMPLES], [prompt], label="Prompts")
        inputs = [*(side[0] for side in sides), prompt, negative, steps, guidance, seed, tiny]
        outputs = [part for side in sides for part in side[1:]]
        gr.on([button.click, prompt.submit], draw, inputs, outputs, concurrency_limit=1, api_name="draw")
    return page


def _side(models: Sequence[str], place: int, name: str) -> tuple[Any, Any, Any]:
    """A model's choice, its image and what is said of it."""
    with gr.Column(scale=1):
        chosen = models[min(place, len(models) - 1)]
        model = gr.Dropdown(list(models), value=chosen, label="Model", elem_id=f"{name}-model")
        image = gr.Image(label="Image", type="numpy", height=360, elem_id=f"{name}-image", buttons=["download"])
        said = gr.Markdown("", elem_id=f"{name}-said")
    return model, image, said


def number(text: str) -> float | None:
    """A guidance scale as it was typed; None where nothing was."""
    if not text.strip():
        return None
    try:
        scale = float(text.replace(",", "."))
    except ValueError:
        scale = -1.0
    if not 0 <= scale < float("inf"):
        raise KoalaError(f"guidance is a number of 0 or more, not {text!r}")
    return scale


def shown(studio: Studio, wish: Wish) -> Shown:
    """An image and its numbers, or why there is none."""
    try:
        return told(studio.draw(wish))
    except KoalaError as error:
        return None, f"**{wish.model}**: {error}"


def told(drawn: Drawn) -> Shown:
    """The image, and its latency and memory in words."""
    memory = "" if drawn.memory_bytes is None else f", {gib(drawn.memory_bytes)} GiB {drawn.memory_kind} at most"
    times = max(1, LEAST_SHOWN // drawn.image.shape[0])  # small images are shown enlarged, pixel by pixel
    lines = [f"**{_SECONDS(drawn.seconds)} s**{memory}", *drawn.remarks]
    return drawn.image.repeat(times, axis=0).repeat(times, axis=1), "\n\n".join(lines)


def serve(page: gr.Blocks, host: str, port: int | None) -> None:
    """Print the address and serve until interrupted. Fonts are the machine's own, so that no network is asked."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        ssr_mode=False,
        footer_links=[],
    )
    print(address, flush=True)
    page.block_thread()
