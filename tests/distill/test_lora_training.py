from dataclasses import replace

import pytest
import torch
from random_batch import random_batch
from safetensors import safe_open

from koala.distill.dropout import replaced
from koala.distill.finetune import FineTuning
from koala.distill.kd import Distillation
from koala.distill.lora import FILE, TEXT_TARGETS, Captioned, CaptionFineTuning, add_adapters, save
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.weights.lora import Adapter
from koala.sampling.pipelines import diffusers_pipeline

SPECS = [zoo.get("tiny-koala-700m"), zoo.get("tiny-bk-sdm-tiny")]
by_family = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CAPTIONS = ("a red apple", "two blue cars")


def networks_of(components):
    return [components.unet, *components.conditioner.networks]


def adapted(spec, alpha=6.0, rank=4):
    """Components with fresh adapters in the U-Net and the text encoders."""
    components = load(spec, "cpu", parts=("unet", "text"))
    for network in networks_of(components):
        targets = (*ATTENTION, "conv1") if network is components.unet else TEXT_TARGETS
        add_adapters(network, rank, alpha, targets)
    return components


def moved(components, steps=3):
    """The components after some steps of training that changed all their adapters."""
    objective = CaptionFineTuning(components.spec, components.unet, components.conditioner, seed=1)
    trained = [p for p in objective.trained["unet"].parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        objective.terms("unet", captioned(components.spec)).total.backward()
        optimizer.step()
    return components


def captioned(spec):
    return replace(random_batch(spec), captions=CAPTIONS)


def outputs(components):
    """What the U-Net and the text encoders say."""
    batch = random_batch(components.spec)
    with torch.no_grad():
        told = batch.condition.unet_arguments(batch.sizes)
        unet = components.unet(batch.clean, torch.tensor([10, 900]), **told, return_dict=False)[0]
        text = components.conditioner.encode(CAPTIONS)
    return {"unet": unet, "context": text.context} | ({} if text.pooled is None else {"pooled": text.pooled})


def close(found, expected, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0)


def far(found, expected):
    assert all((found[name] - expected[name]).abs().max() > 1e-2 for name in expected)


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: spec.name)
def trained(request, tmp_path_factory):
    """Trained components and the folder that they were saved in."""
    components = moved(adapted(request.param))
    folder = tmp_path_factory.mktemp("lora") / "run" / "final"
    save(folder, components.unet, components.conditioner.networks)
    return components, folder


# Adapters ------------------------------------------------------------------------------------------------------------


@by_family
def test_fresh_adapters_change_nothing(spec):
    close(outputs(adapted(spec)), outputs(load(spec, "cpu", parts=("unet", "text"))), atol=0.0)


@by_family
def test_adapters_alone_train(spec):
    components = adapted(spec)
    for network in networks_of(components):
        names = {key for key, p in network.named_parameters() if p.requires_grad}
        assert names and all(".lora_A." in key or ".lora_B." in key for key in names)
        assert names == {key for key, _ in network.named_parameters() if ".lora_" in key}


def test_every_layer_that_ends_in_a_target_has_an_adapter():
    unet = load(SPECS[1], "cpu", parts=("unet",)).unet
    wanted = {name for name, _ in unet.named_modules() if name.endswith((".to_k", ".to_out.0"))}
    add_adapters(unet, 2, 0.0, ("to_k", "to_out.0"))
    assert {key.partition(".lora_A")[0] for key, _ in unet.named_parameters() if ".lora_A." in key} == wanted


@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 1.0), (8.0, 2.0), (2.0, 0.5)])
def test_an_alpha_of_0_is_the_rank(alpha, scale):
    unet = load(SPECS[1], "cpu", parts=("unet",)).unet
    add_adapters(unet, 4, alpha, ("to_q",))
    layers = [module for module in unet.modules() if hasattr(module, "scaling")]
    assert layers and all(list(layer.scaling.values()) == [scale] for layer in layers)


def test_fresh_adapters_follow_the_seed_and_leave_torchs_generator_out():
    def state(seed, rng):
        torch.manual_seed(rng)
        unet = load(SPECS[1], "cpu", parts=("unet",)).unet
        add_adapters(unet, 4, 0.0, ("to_q",), seed=seed)
        return torch.cat([p.flatten() for p in unet.parameters() if p.requires_grad])

    first = state(0, 0)
    assert torch.equal(first, state(0, 1)) and not torch.equal(first, state(1, 0))


@pytest.mark.parametrize("targets", [("to_q", "to_w"), ("attn1",), ("to_out",), ("q",)])
def test_a_target_without_such_layers_is_told_with_those_there_are(targets):
    unet = load(SPECS[1], "cpu", parts=("unet",)).unet
    with pytest.raises(KoalaError, match=f"{targets[-1]!r}.*conv1.*proj_in.*to_out.0, to_q, to_v"):
        add_adapters(unet, 4, 0.0, targets)
    assert not any("lora" in key for key, _ in unet.named_parameters())


def test_adapters_can_be_counted_on_the_meta_device():
    unet = meta_networks(zoo.get("koala-700m"), ("unet",))["unet"]
    add_adapters(unet, 4, 0.0, ATTENTION)
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) > 1_000_000


def test_fp32_adapters_train_over_a_base_in_bf16():
    components = load(SPECS[0], "cpu", "bf16", parts=("unet", "text"))
    for network in networks_of(components):
        add_adapters(network, 4, 0.0, ATTENTION if network is components.unet else TEXT_TARGETS)
        assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in network.parameters() if not p.requires_grad} == {torch.bfloat16}
    objective = CaptionFineTuning(SPECS[0], components.unet, components.conditioner, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.terms("unet", captioned(SPECS[0]))
    terms.total.backward()
    exact = CaptionFineTuning(SPECS[0], *unet_and_text(load(SPECS[0], "cpu", parts=("unet", "text"))), seed=1)
    torch.testing.assert_close(terms.total, exact.terms("unet", captioned(SPECS[0])).total, rtol=0.05, atol=0.0)
    grads = [p.grad for p in objective.trained["unet"].parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)


def unet_and_text(components):
    return components.unet, components.conditioner


# Files ---------------------------------------------------------------------------------------------------------------


def test_stock_diffusers_draws_with_what_was_trained(trained):
    components, folder = trained
    fresh = load(components.spec, "cpu")
    before = outputs(fresh)
    pipeline = diffusers_pipeline(fresh)
    pipeline.load_lora_weights(folder)
    close(outputs(fresh), outputs(components))
    far(outputs(fresh), before)


def test_our_loader_fuses_and_attaches_what_was_trained(trained):
    components, folder = trained
    for fused in (True, False):
        adapters = [Adapter(folder, fused=fused)]
        close(outputs(load(components.spec, "cpu", parts=("unet", "text"), adapters=adapters)), outputs(components))


def test_ranks_and_alphas_stand_in_the_file(trained):
    components, folder = trained
    assert [file.name for file in folder.iterdir()] == [FILE]
    with safe_open(folder / FILE, "pt") as file:
        told = file.metadata()["lora_adapter_metadata"]
        networks = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
    assert len(networks) == 1 + len(components.conditioner.networks)
    assert all(f'"{name}.lora_alpha": 6.0' in told and f'"{name}.r": 4' in told for name in networks)


@by_family
def test_the_adapter_of_a_u_net_alone_leaves_the_text_encoders_out(spec, tmp_path):
    components = load(spec, "cpu", parts=("unet",))
    add_adapters(components.unet, 2, 0.0, ("to_v",))
    objective = FineTuning(spec, components.unet)
    objective.terms("unet", random_batch(spec)).total.backward()
    torch.optim.SGD([p for p in components.unet.parameters() if p.requires_grad], lr=10.0).step()
    assert save(tmp_path, components.unet, load(spec, "cpu", parts=("text",)).conditioner.networks) == tmp_path / FILE
    found = load(spec, "cpu", parts=("unet", "text"), adapters=[Adapter(tmp_path)])
    plain = load(spec, "cpu", parts=("unet", "text"))
    expected = outputs(replace(plain, unet=components.unet))
    close(outputs(found), expected)
    assert not torch.allclose(expected["unet"], outputs(plain)["unet"], atol=1e-3)


def test_an_older_file_is_replaced_and_a_folder_that_cannot_be_is_told(trained, tmp_path):
    components, _ = trained
    (tmp_path / FILE).write_text("old")
    save(tmp_path, components.unet)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert file.keys()
    with pytest.raises(KoalaError, match="cannot write"):
        save(tmp_path / FILE, components.unet)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


# Text encoders -------------------------------------------------------------------------------------------------------


@by_family
def test_training_from_captions_is_training_from_their_conditions(spec):
    components = load(spec, "cpu", parts=("unet", "text"))
    batch = captioned(spec)
    with torch.no_grad():
        told = replace(batch, condition=components.conditioner.encode(CAPTIONS))
    expected = FineTuning(spec, components.unet, seed=1).terms("unet", told).total
    from_captions = CaptionFineTuning(spec, components.unet, components.conditioner, seed=1)
    torch.testing.assert_close(from_captions.terms("unet", batch).total, expected, rtol=1e-6, atol=0)


@by_family
def test_every_adapter_that_something_depends_on_learns(spec):
    components = adapted(spec)
    before = {key: p.detach().clone() for n in networks_of(components) for key, p in n.named_parameters()}
    moved(components)
    changed = {key: not torch.equal(p, before[key]) for n in networks_of(components) for key, p in n.named_parameters()}
    # SDXL reads the states before its first encoder's last layer, of which nothing else is used.
    unread = "encoder.layers.1." if spec.conditioning.penultimate else "none"
    assert changed == {key: "lora" in key and not key.startswith(unread) for key in changed}


@by_family
def test_all_that_trains_has_a_gradient_at_every_step_as_ddp_needs_it(spec):
    components = adapted(spec)
    objective = CaptionFineTuning(spec, *unet_and_text(components), seed=1)
    for captions in (CAPTIONS, ("", "")):
        objective.terms("unet", replace(captioned(spec), captions=captions)).total.backward()
        assert all((p.grad is not None) == p.requires_grad for p in objective.trained["unet"].parameters())


@by_family
def test_an_empty_caption_is_told_as_guidance_tells_it(spec):
    components = load(spec, "cpu", parts=("unet", "text"))
    batch = captioned(spec)
    with torch.no_grad():
        condition = components.conditioner.encode(CAPTIONS)
        unconditional = components.conditioner.guided(CAPTIONS[:1], None).map(lambda field: field[:1])
        told = replace(batch, condition=replaced(condition, unconditional, [False, True]))
    dropped = replace(batch, captions=(CAPTIONS[0], ""))
    expected = FineTuning(spec, components.unet, seed=1).terms("unet", told).total
    found = CaptionFineTuning(spec, components.unet, components.conditioner, seed=1).terms("unet", dropped).total
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_gradient_checkpointing_reaches_the_u_net():
    components = adapted(SPECS[1])
    network = Captioned(*unet_and_text(components))
    network.enable_gradient_checkpointing()
    assert components.unet.is_gradient_checkpointing


# Distillation through adapters ---------------------------------------------------------------------------------------


def test_a_student_can_learn_from_a_teacher_through_adapters():
    student, teacher = SPECS[1], zoo.get("tiny-sdm-v1.4")
    unet, other = (load(spec, "cpu", parts=("unet",)).unet for spec in (student, teacher))
    plain = Distillation(student, unet, teacher, other, ("LF@DW-1", "PO@DW-3", "LF@UP"), seed=1)
    expected = plain.terms("unet", random_batch(student))
    add_adapters(unet, 4, 0.0, (*ATTENTION, "proj_out"))
    terms = Distillation(student, unet, teacher, other, ("LF@DW-1", "PO@DW-3", "LF@UP"), seed=1).terms(
        "unet", random_batch(student)
    )
    torch.testing.assert_close(terms.total, expected.total, rtol=1e-5, atol=0)
    terms.total.backward()
    assert all((p.grad is not None) == ("lora" in key) for key, p in unet.named_parameters())
