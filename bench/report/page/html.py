"""The page itself: template, style, scripts and data in one file that needs nothing beside it but its images."""

import base64
import gzip
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

TITLE = "KOALA Bench: measured rows"


def page(data: dict[str, Any], about: str, sections: Sequence[str] = ()) -> str:
    """The HTML of `data` (`payload`); `about` is text, `sections` are HTML."""
    parts = {
        "title": html.escape(TITLE),
        "about": html.escape(about),
        "css": _asset("page.css"),
        "sections": "\n".join(sections),
        "data": script_json(data),
        "plotly": packed_plotly(),
        "script": _asset("page.js") + _asset("plots.js"),
    }
    return Template(_asset("page.html")).substitute(parts)


def section(heading: str, *parts: str) -> str:
    """A section of the page below a heading, which is text; `parts` are HTML."""
    return "\n".join(["<section>", f"<h2>{html.escape(heading)}</h2>", *parts, "</section>"])


def script_json(data: Any) -> str:
    """JSON that no text in it can end the script of: `</script>` and `<!--` are spelt without their `<`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def packed_plotly() -> str:
    """Plotly's script as installed with its Python package, gzipped, in base64: 2 MB for 5."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
