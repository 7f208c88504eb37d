"""`python -m koala demo`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from koala.commands.sample import chosen_device
from koala.errors import KoalaError
from koala.harness.options import Names
from koala.models import zoo
from koala.models.zoo import local

EXAMPLES = (
    "python -m koala demo",
    "python -m koala demo --models koala-lightning-700m,sdxl-turbo",
    "python -m koala demo --models 'emoji-*' --port 7861",
)


@dataclass(frozen=True)
class Options:
    """Serve a local page that draws with two models side by side: steps, guidance, seed, negative prompt, tiny VAE.

    It says how long each image took and how much memory it needed. Only this machine can open it, unless --host says
    otherwise. Needs the extra `demo`: pip install "koala-bench[demo]". The address goes to stdout.
    """

    models: Names = ()
    """Models of the zoo, a pattern, or folders; default: those that were trained here or are in this clone."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU if there is one."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network."""
    port: int | None = None
    """Default: the first free one from 7860."""


def run(options: Options) -> int:
    """Serve until Ctrl-C."""
    if find_spec("gradio") is None:
        raise KoalaError('the demo needs gradio: pip install "koala-bench[demo]"')
    asked = zoo.matching(options.models)
    for name in asked:
        zoo.get(name)
    device = chosen_device(options.device)
    models = list(asked) or drawable()
    if not models:
        raise KoalaError(
            "no trained model is here: run it from the root of a clone, whose emoji-koala is there, or name --models"
        )
    from koala.demo.page import build, serve
    from koala.demo.studio import Studio

    try:
        serve(build(Studio(device), models), options.host, options.port)
    except OSError as error:
        raise KoalaError(f"cannot listen on {options.host}:{options.port or '7860 to 7959'}: {error}") from error
    return 0


def drawable() -> list[str]:
    """Models whose trained weights are in the clone or were trained here."""
    return [name for name in zoo.names() if (home := zoo.get(name).home) and (Path(home) / local.CARD).is_file()]
