import hashlib
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from open_clip import list_pretrained
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import _get_safe_alternatives, get_pretrained_cfg

from eval.__main__ import COMMANDS
from eval.extractors.clip import PRESETS as CLIP_PRESETS
from eval.weights import table
from eval.weights.supply import fetchable, put_at, ways
from koala.errors import UnknownName

FILES = [file for file in table.FILES.values() if not file.made_by]
MADE = [file for file in table.FILES.values() if file.made_by]
NAMES = [file.name for file in FILES]
IN_PACKAGES = [file for file in FILES if file.package]
WITH_ADDRESS = [file for file in FILES if file.url]


# Of these no public source states one; a copy is verified only in the hub's own cache.
WITHOUT_HASH = {"blip-vqa-capfilt-large", "clip-flant5-xl", "mask2former-swin-s-coco"}
WITHOUT_SIZE = {*WITHOUT_HASH, "owlv2-base-patch16-ensemble"}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_listed_file_has_a_hash_a_size_and_somewhere_to_come_from(file):
    if file.name in WITHOUT_HASH:
        assert file.sha256 is None
    else:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.name in WITHOUT_SIZE or file.size_bytes > 0
    assert file.licence and fetchable(file)
    assert table.get(file.name) is file


@pytest.mark.parametrize("file", MADE, ids=[file.name for file in MADE])
def test_a_file_that_is_made_here_has_no_standard_hash_and_says_by_which_command(file):
    assert file.sha256 is None and not fetchable(file)
    assert re.match(r"python -m eval (\w+) ", file.made_by)[1] in COMMANDS
    assert put_at(file) == f"made by {file.made_by}" and ways(file)[0].startswith(file.made_by)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_eight_digits_in_a_file_name_begin_its_hash(file):
    for digits in re.findall(r"-([0-9a-f]{8})\.pth$", file.file):
        assert file.sha256.startswith(digits)


@pytest.mark.parametrize("file", IN_PACKAGES, ids=[file.name for file in IN_PACKAGES])
def test_an_installed_package_holds_the_file_that_the_table_describes(file):
    try:
        installed = distribution(file.package.distribution)
    except PackageNotFoundError:
        pytest.skip(f"{file.package} is not installed")
    path = Path(str(installed.locate_file(file.package.path)))
    assert path.name == file.file and installed.version == file.package.version
    assert path.stat().st_size == file.size_bytes
    with path.open("rb") as content:
        assert hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


@pytest.mark.parametrize("file", WITH_ADDRESS, ids=[file.name for file in WITH_ADDRESS])
def test_what_torch_hub_would_download_lies_where_it_is_looked_for(file):
    if file.name == "inception-v3-fid":
        pytest.importorskip("torch_fidelity")
    name = file.url().rpartition("/")[2]
    assert "{torch_hub}/checkpoints/" + name in file.caches


def test_pytorch_fids_copy_of_the_inception_weights_is_looked_for():
    inception = pytest.importorskip("pytorch_fid.inception")
    name = inception.FID_WEIGHTS_URL.rpartition("/")[2]
    assert table.get("inception-v3-fid").file == name
    assert "{torch_hub}/checkpoints/" + name in table.get("inception-v3-fid").caches


def test_every_tag_of_open_clip_has_its_repository_and_files_in_open_clips_order():
    for model, tag in list_pretrained():
        file = table.get(f"clip/{model}/{tag}")
        source = get_pretrained_cfg(model, tag)["hf_hub"]
        repository, _, name = source.rpartition("/")
        name = name or HF_WEIGHTS_NAME
        assert file.hub.repository == repository
        assert (file.file, *file.also) == (*_get_safe_alternatives(name), name)
        assert file.hub.path == file.file


def test_a_clip_tag_has_a_licence_only_where_its_card_was_read():
    licences = {name: table.get(f"clip/{name}").licence for name in CLIP_PRESETS}
    assert all("MIT" in licence for licence in licences.values())
    assert table.get("clip/RN50/yfcc15m").licence is None
    assert table.get("clip/ViT-H-14/laion2b_s32b_b79k").licence is None


@pytest.mark.parametrize("repository", table._CLIP_HASHES)
def test_the_hashes_of_clip_files_are_whole(repository):
    sha256, size_bytes = table._CLIP_HASHES[repository]
    assert re.fullmatch("[0-9a-f]{64}", sha256) and size_bytes > 10**8


def test_the_openai_tags_are_the_conversions_in_safetensors():
    file = table.get("clip/ViT-L-14/openai")
    assert file.hub.repository == "timm/vit_large_patch14_clip_224.openai"
    assert file.file == HF_SAFE_WEIGHTS_NAME


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "inception-v3",
            r"unknown weight file 'inception-v3' \(did you mean 'inception-v3-fid'\?\); known: alexnet, .*clip/",
        ),
        ("clip/ViT-L-14/openia", r"did you mean 'clip/ViT-L-14/openai'"),
        ("clip/ViT-L-15/openai", r"known: .*clip/ViT-L-14/PRETRAINED"),
        ("clip/ViT-L-14", r"known: .*clip/ViT-L-14/openai"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, answer):
    with pytest.raises(UnknownName, match=answer):
        table.get(name)
