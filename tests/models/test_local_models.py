import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trained_folders import trained_folder

from bench.case import Axes, Case, grid
from bench.report.publish import publish
from eval.__main__ import COMMANDS as EVAL
from koala.errors import KoalaError, UnknownName
from koala.harness import records
from koala.harness.cli import Command, main
from koala.models import zoo
from koala.models.load import load
from koala.models.spec import Pretrained
from koala.models.zoo.local import CARD
from koala.sampling.gallery import Gallery
from koala.sampling.sampler import Sampler

NAME = "tiny-mine@01234567"


def koala(*arguments):
    commands = {name: Command(f"koala.commands.{name}", "") for name in ("sample", "export")}
    return main("koala", "", commands, (), list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained_folder(tmp_path_factory.mktemp("trained") / "final")


def test_a_folder_is_a_model_of_its_own_name_with_its_own_weights(folder):
    spec, base = zoo.get(str(folder)), zoo.get("tiny-koala-700m")
    assert (spec.name, spec.folder, spec.own_weights) == (NAME, str(folder), str(folder))
    same = {"unet", "conditioning", "autoencoder", "recipe", "resolution", "twin_of", "prediction", "license"}
    assert all(getattr(spec, field) == getattr(base, field) for field in same)


def test_its_weights_are_those_of_the_folder_and_the_hub_stands_for_them(folder):
    expected = load(zoo.get("tiny-koala-700m"), "cpu", seed=5)
    for weights in (str(folder), "hub"):
        found = load(zoo.get(str(folder)), "cpu", weights=weights)
        for ours, theirs in zip(found.networks, expected.networks, strict=True):
            state = theirs.state_dict()
            assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())


def test_a_copy_in_the_repository_stands_for_a_model_until_it_is_trained_here(folder, tmp_path):
    own = trained_folder(tmp_path / "own", seed=6)
    base = replace(zoo.get(str(folder)), folder=str(tmp_path / "final"), attached=str(folder))

    def first(weights):
        return load(base, "cpu", weights=weights, parts=("unet",)).unet.conv_in.weight

    attached = load(zoo.get(str(folder)), "cpu", parts=("unet",), weights="hub").unet.conv_in.weight
    assert all(torch.equal(first(weights), attached) for weights in ("hub", base.folder))
    assert base.own_weights == base.attached, "what draws says so"
    own.rename(tmp_path / "final")
    assert base.own_weights == base.folder
    trained = load(zoo.get(base.folder), "cpu", parts=("unet",), weights="hub").unet.conv_in.weight
    assert torch.equal(first("hub"), trained) and not torch.equal(trained, attached)
    assert zoo.get(base.folder).attached is None, "a folder stands for nothing but itself"


def test_of_a_unet_alone_the_other_networks_are_those_of_the_model_it_was_trained_with(tmp_path):
    folder = trained_folder(tmp_path / "final", whole=False)
    unet = load(zoo.get(str(folder)), "cpu", weights="hub", parts=("unet",)).unet
    assert torch.equal(unet.conv_in.weight, load(zoo.get("tiny-koala-700m"), "cpu", seed=5).unet.conv_in.weight)
    released = {"base": "koala-turbo-700m", "frozen": "sdxl-turbo"}  # nothing of the first was released
    (folder / CARD).write_text(json.dumps(json.loads((folder / CARD).read_text()) | released))
    assert zoo.get(str(folder)).weights == Pretrained(zoo.get("sdxl-turbo").weights.pipeline)


def test_recipe_and_resolution_are_those_that_the_folder_says(tmp_path):
    recipe = replace(zoo.get("tiny-koala-700m").recipe, steps=3, timesteps=(999, 500, 1), scheduler="lcm")
    spec = zoo.get(str(trained_folder(tmp_path / "final", whole=False, recipe=recipe, resolution=64)))
    assert (spec.recipe, spec.resolution) == (recipe, 64)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "holds no model that was trained here"),
        ({"model_index.json": "{}"}, "--weights"),
        ({"unet/config.json": "{}"}, "--weights"),
        ({"pytorch_lora_weights.safetensors": ""}, "--lora"),
        ({"final/koala.json": "{}"}, "its model is"),
        ({"koala.json": "{"}, "is damaged"),
        ({"koala.json": "[]"}, "is damaged"),
        ({"koala.json": '{"format": 1}'}, "is damaged"),
        ({"koala.json": '{"format": 2}'}, "format 2"),
    ],
)
def test_a_folder_that_is_no_model_says_what_to_do_with_it(made, said, tmp_path):
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(KoalaError, match=said):
        zoo.get(str(tmp_path))


def test_a_path_to_nothing_is_no_unknown_model(tmp_path):
    with pytest.raises(KoalaError, match="there is no folder"):
        zoo.get(str(tmp_path / "none"))
    with pytest.raises(UnknownName):
        zoo.get("koala-70m")


def test_an_entry_of_the_zoo_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sdxl").mkdir()
    assert zoo.get("sdxl").folder is None


def test_a_model_by_path_is_sampled_as_our_sampler_draws_it(folder, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert koala("sample", folder, "a cat", "--steps", 2, "--device", "cpu", "--out", out) == 0
    (row,) = Gallery(out).rows()
    assert (row["model"], row["weights"]) == (NAME, str(folder))
    spec = zoo.get(str(folder))
    expected = Sampler(load(spec, "cpu", weights=str(folder))).sample(
        ["a cat"], [0], recipe=replace(spec.recipe, steps=2)
    )
    with Image.open(out / row["file"]) as image:
        assert np.array_equal(np.asarray(image), expected[0].numpy())


def test_its_pictures_go_into_a_folder_with_its_name(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert koala("sample", folder, "a cat", "--steps", 1, "--device", "cpu") == 0
    assert Gallery(tmp_path / "runs" / "samples" / NAME).rows()


def test_a_model_by_path_is_exported_to_one_file(folder, tmp_path, capsys):
    assert koala("export", folder, "--out", tmp_path / "one.safetensors", "--dtype", "fp32") == 0
    unet = load(zoo.get("tiny-koala-700m"), "cpu", weights=str(tmp_path / "one.safetensors")).unet
    expected = load(zoo.get("tiny-koala-700m"), "cpu", seed=5).unet
    assert torch.equal(unet.conv_in.weight, expected.conv_in.weight)


def test_a_case_of_a_model_by_path_says_its_name_and_its_folder(folder):
    (case,) = grid(Axes((str(folder),), ("unet",), (), (1,), ("fp32",), (), "cpu"))
    assert (case.model, case.weights, case.resolution) == (NAME, str(folder), 128)
    assert case.spec == zoo.get(str(folder))
    (other,) = grid(Axes(("tiny-koala-700m",), ("unet",), (), (1,), ("fp32",), (), "cpu"))
    assert other == Case("tiny-koala-700m", "unet", 128, 1, "fp32", None, "cpu", "random")


def test_a_case_of_other_weights_than_the_folder_has_now_is_refused(folder):
    with pytest.raises(KoalaError, match="holds tiny-mine@01234567 now"):
        Case("tiny-mine@ffffffff", "unet", 128, 1, "fp32", None, "cpu", str(folder))


def test_rows_of_trained_models_are_published_and_those_of_their_small_twins_are_not(tmp_path):
    environment = {"kind": "environment", "id": "e", "device_name": "A Machine", "device_kind": "cpu"}
    case = {"target": "unet", "resolution": 1024, "batch_size": 1, "dtype": "fp16", "steps": None, "device": "cpu"}
    with records.Store(tmp_path / "rows.jsonl") as store:
        store.append(environment)
        for model in ("mine@01234567", NAME):
            own = {**case, "model": model, "weights": "gone/final", "profile": "eager"}
            row = {"schema": 1, "kind": "bench", "measurement": 1, "case": own, "status": "ok", "environment": "e"}
            store.append({**row, "samples_s": {"total": [1.0, 1.0]}, "memory_bytes": {}, "started_at": "2026-01-01"})
    (published,) = publish([tmp_path / "rows.jsonl"], tmp_path / "results")
    rows = records.read([published / "rows.jsonl"]).of_kind("bench").rows
    assert [row["case"]["model"] for row in rows] == ["mine@01234567"]
    assert "mine@01234567" in (published / "bench.md").read_text()


def test_a_gallery_of_a_model_by_path_is_scored(folder, tmp_path, monkeypatch, capsys):
    assert koala("sample", folder, "a cat", "--steps", 1, "--device", "cpu", "--out", tmp_path / "pictures") == 0
    monkeypatch.chdir(tmp_path)
    arguments = ["score", "pictures", "--metrics", "brightness", "--device", "cpu", "--out", "scores"]
    assert main("eval", "", EVAL, (), arguments) == 0
    assert NAME in capsys.readouterr().out
    assert NAME in (tmp_path / "scores" / "rows.jsonl").read_text()
