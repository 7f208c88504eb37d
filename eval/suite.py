"""What a prompt suite is: prompts with tags and, where defined, what a machine can check of their images.

A suite is one TOML file in `eval/suites/`. Imports no torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Tags = Mapping[str, str]
# What a machine can check: `include` and `exclude`, lists of objects as GenEval's metadata has them ({"class",
# "count", "color"?, "position"?: [relation, index of the object it is told of]}), `tag`, GenEval's task, and `text`,
# which has to be legible.
Expectations = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite."""

    text: str
    tags: Tags = field(default_factory=dict)
    expects: Expectations = field(default_factory=dict)
    id: str | None = None  # what the suite calls it: the name of its file, the id of its image

    def facts(self) -> dict[str, Any]:
        """What a gallery's manifest keeps of it beside its text."""
        return {"prompt_id": self.id, "tags": dict(self.tags), "expects": dict(self.expects)}


@dataclass(frozen=True)
class Suite:
    """Prompts that belong together, in their official order."""

    name: str  # the name of its file, or of the user's own
    title: str
    license: str | None
    source: str | None
    prompts: tuple[Prompt, ...]
    notes: str = ""

    @cached_property
    def digest(self) -> str:
        """sha256 of texts, tags and expectations in order."""
        facts = [[prompt.text, dict(prompt.tags), dict(prompt.expects)] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def counted(expects: Expectations) -> dict[str, str]:
    """The tags `objects` and `attributes`: how many objects a prompt asks for, and how many colours and relations."""
    include: Sequence[Mapping[str, Any]] = expects.get("include") or ()
    if not include:
        return {}
    attributes = sum(name in item for item in include for name in ("color", "position"))
    return {"objects": str(sum(item.get("count", 1) for item in include)), "attributes": str(attributes)}
