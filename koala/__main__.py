"""`python -m koala`."""

import sys

from koala.harness.cli import Command, main

COMMANDS = {
    "models": Command("koala.commands.models", "list the zoo: sizes, topology, recipe, source"),
    "sample": Command("koala.commands.sample", "draw images from prompts, with their settings beside them"),
    "demo": Command("koala.commands.demo", "a local page that draws with two models side by side"),
    "profiles": Command("koala.commands.profiles", "list speed and memory profiles: what each saves and costs"),
    "inherit": Command("koala.commands.inherit", "make a student U-Net from the weights of its teacher"),
    "export": Command("koala.commands.export", "write a model as one file or as a diffusers folder"),
    "recaption": Command("koala.commands.recaption", "write rich captions with an image-text-to-text model"),
    "data": Command("koala.commands.data", "prepare a small captioned dataset that needs no hub"),
    "encode": Command("koala.commands.encode", "encode captioned images once, for training"),
    "pairs": Command("koala.commands.pairs", "draw pairs of noise and image, from which one step is learnt"),
    "train": Command("koala.commands.train", "train a named run: KOALA, BK-SDM, Segmind, fine-tuning, LoRA, DMD2"),
}
EXAMPLES = (
    "python -m koala models",
    'python -m koala sample koala-lightning-700m "a red apple on a blue table" --seed 7 --n 4',
    "python -m koala inherit sdxl koala-700m --weights sdxl-folder --out koala-700m-init",
    "python -m koala train koala-700m-base --dry-run",
)

if __name__ == "__main__":
    sys.exit(main("koala", "Compressed text-to-image diffusion models.", COMMANDS, EXAMPLES))
