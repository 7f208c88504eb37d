"""VQAScore beside the parts of transformers put together by hand, in small; and at its real size."""

import gc
import os
import random
from math import prod

import pytest
import torch
from judge_files import images, networks, random_state
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from eval import metrics
from eval.answers import clip_flant5
from eval.answers.clip_flant5 import ANSWER, ClipFlanT5
from koala.errors import KoalaError
from koala.models.weights.fill import Misfit

sentencepiece = pytest.importorskip("sentencepiece")
GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="8 GB of memory: set KOALA_FULLSIZE=1")
PARAMS = 3_159_560_192  # those of CLIP's ViT-L/14 at 336, of flan-t5-xl and of the projector; 2 bytes each in the file
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 6}
EYE = "vision_tower.vision_tower.vision_model."
TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight")
PROMPTS = ["two dogs", "a red apple on a blue table", 'a sign that says "OPEN {}"']
SAID = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    'and polite answers to the user\'s questions. USER: <image>\nDoes this figure show "{}"? Please answer yes or no. '
    "ASSISTANT: "
)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model with T5's first pieces."""
    words = [*SAID.split(), "Yes", "no", *" ".join(PROMPTS).split()]
    lines = [" ".join(random.Random(seed).choices(words, k=12)) for seed in range(400)]
    prefix = tmp_path_factory.mktemp("pieces") / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=150,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture
def small(monkeypatch):
    """The network in small; the eye sees patches of 56 pixels."""
    monkeypatch.setattr(clip_flant5, "VISION", {**clip_flant5.VISION, **VISION, "patch_size": 56})
    monkeypatch.setattr(clip_flant5, "TEXT", {**clip_flant5.TEXT, **TEXT})


def parts(rows):
    """Eye, projector and T5 as transformers and the authors build them."""
    vision, text = clip_flant5.VISION, clip_flant5.TEXT
    eye = CLIPVisionModel(CLIPVisionConfig(**vision))
    width = text["d_model"]
    projector = nn.Sequential(nn.Linear(vision["hidden_size"], width), nn.GELU(), nn.Linear(width, width))
    language = T5ForConditionalGeneration(T5Config(vocab_size=rows, decoder_start_token_id=0, **text))
    language.lm_head = nn.Linear(width, rows, bias=False)
    return eye.eval(), projector, language.eval()


def named(eye, projector, language):
    """One state dict under the names of the authors' file, which has T5's table under four."""
    state = {EYE + key: tensor for key, tensor in eye.items()}
    state |= {f"mm_projector.{key}": tensor for key, tensor in projector.items()}
    return state | {**language, **dict.fromkeys(TABLES, language["shared.weight"])}


def written(path, pieces, dtype=torch.float32, unused=28):
    """The parts, whose checkpoint is written to `path`, `unused` rows of the table being no token's."""
    rows = sentencepiece.SentencePieceProcessor(model_file=str(pieces)).get_piece_size() + 100 + unused
    made = parts(rows)
    states = [random_state(part, dtype, gain=2.0) for part in made]
    states[2]["lm_head.weight"] = states[2]["lm_head.weight"] * 0.3 + 0.01
    for key in TABLES[:3]:
        states[2][key] = states[2]["shared.weight"]
    for part, state in zip(made, states, strict=True):
        part.load_state_dict(state)
    torch.save(named(*states), path)
    return made


def chance(made, picture, prompt, pieces, known):
    """exp of less the loss of the answer, alone and without padding, by transformers' own forward; fp32."""
    eye, projector, language = made
    image = Image.fromarray(picture.numpy())
    square = Image.new("RGB", (max(image.size),) * 2, (122, 116, 104))
    square.paste(image, tuple((max(image.size) - length) // 2 for length in image.size))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336)
    pixels = processor(square, return_tensors="pt")["pixel_values"]
    processed = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    before, after = ([*processed.encode(part), 1] for part in SAID.replace("{}", prompt, 1).split("<image>"))
    states = eye.pre_layrnorm(eye.embeddings(pixels))
    for block in eye.encoder.layers[:-1]:
        found = block(states, attention_mask=None)
        states = found[0] if isinstance(found, tuple) else found
    words = language.shared(torch.tensor([before + after]))
    embedded = torch.cat([words[:, : len(before)], projector(states[:, 1:]), words[:, len(before) :]], dim=1)
    labels = torch.tensor([[*processed.encode(ANSWER), 1]])
    logits = language(inputs_embeds=embedded, labels=labels).logits[:, :, :known]
    return (-nn.functional.cross_entropy(logits[0], labels[0])).exp().item()


@pytest.mark.parametrize("size", [(336, 336), (300, 200), (100, 333), (700, 700)])
def test_scores_are_the_chances_that_transformers_own_forward_gives(tmp_path, pieces, small, size):
    made, pixels = written(tmp_path / "flan.bin", pieces), images(3, *size)
    network = ClipFlanT5(tmp_path / "flan.bin", pieces, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        wanted = [
            chance(made, picture, prompt, pieces, network._known)
            for picture, prompt in zip(pixels, PROMPTS, strict=True)
        ]
    assert network.yes(pixels, PROMPTS).tolist() == pytest.approx(wanted, rel=1e-3)
    assert max(wanted) > 1.02 * min(wanted), "pictures and prompts tell"


def test_rows_of_the_table_that_are_no_tokens_take_no_chance(tmp_path, pieces, small):
    made, pixels = written(tmp_path / "flan.bin", pieces), images(1)
    network = ClipFlanT5(tmp_path / "flan.bin", pieces, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        all_rows = chance(made, pixels[0], PROMPTS[0], pieces, made[2].lm_head.out_features)
    assert network.yes(pixels, PROMPTS[:1]).item() > 1.005 * all_rows


def test_the_last_layer_of_t5_is_not_its_table(tmp_path, pieces, small):
    written(tmp_path / "flan.bin", pieces)
    network = ClipFlanT5(tmp_path / "flan.bin", pieces, torch.device("cpu"))
    t5 = network._t5
    assert not torch.equal(t5.lm_head.weight, t5.shared.weight)
    assert t5.encoder.embed_tokens.weight is t5.decoder.embed_tokens.weight is t5.shared.weight


def test_the_metric_computes_in_bf16_as_the_authors_do(tmp_path, pieces, small):
    made, pixels = written(tmp_path / "flan.bin", pieces), images(6, 300, 200)
    metric = metrics.load("vqa_score:clip-flant5-xl")
    metric.load(networks({"clip-flant5-xl": tmp_path / "flan.bin", "flan-t5-tokenizer": pieces}))
    assert {parameter.dtype for parameter in metric._network._t5.parameters()} == {torch.bfloat16}
    scores = metric.score(pixels, PROMPTS * 2)
    with torch.no_grad():
        wanted = [chance(made, pixels[i], (PROMPTS * 2)[i], pieces, metric._network._known) for i in range(6)]
    assert scores.tolist() == pytest.approx(wanted, rel=0.1) and len(set(scores.tolist())) == 6


def test_a_prompt_is_cut_at_2048_tokens_and_counted(tmp_path, pieces, small):
    written(tmp_path / "flan.bin", pieces)
    metric = metrics.load("vqa_score:clip-flant5-xl")
    metric.load(networks({"clip-flant5-xl": tmp_path / "flan.bin", "flan-t5-tokenizer": pieces}))
    words = "dogs " * 3000
    assert metric.cut(["two dogs", words]) == 1
    scores = metric.score(images(2)[[0, 0]], [words, words + "and a red apple"])
    assert scores[0] == scores[1], "what is cut is not read"


@pytest.mark.parametrize(
    ("left_out", "said"),
    [(EYE + "embeddings.class_embedding", "class_embedding"), ("mm_projector.2.bias", "2.bias"), (TABLES, "shared")],
)
def test_a_file_without_one_of_the_parts_does_not_fit(tmp_path, pieces, small, left_out, said):
    written(tmp_path / "flan.bin", pieces)
    state = torch.load(tmp_path / "flan.bin")
    gone = [left_out] if isinstance(left_out, str) else left_out
    torch.save({key: tensor for key, tensor in state.items() if key not in gone}, tmp_path / "less.bin")
    with pytest.raises(Misfit, match=f"missing.*{said}"):
        ClipFlanT5(tmp_path / "less.bin", pieces, torch.device("cpu"))


def test_a_tokenizer_of_something_else_is_refused(tmp_path, pieces, small):
    written(tmp_path / "flan.bin", pieces)
    (tmp_path / "odd.model").write_bytes(b"odd")
    with pytest.raises(KoalaError, match=r"odd\.model is no SentencePiece model"):
        ClipFlanT5(tmp_path / "flan.bin", tmp_path / "odd.model", torch.device("cpu"))


# ---- real size


def one_storage_each(module):
    """Random bf16 tensors of a module's shapes: of one size of row they share a storage, so that a file stays small."""
    noise, shared, found = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)), {}, {}
    for key, tensor in module.state_dict().items():
        shape, size = tuple(tensor.shape), prod(tensor.shape)
        row = 1 if "embed" in key or "shared" in key else prod(shape[1:])
        if len(shape) == 1 and key.endswith("weight"):
            found[key] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        gain = 0.1 if row == 1 else row**-0.5
        if row not in shared or len(shared[row]) < size:
            shared[row] = (noise.repeat(-(-size // len(noise)))[:size] * gain).bfloat16()
        found[key] = shared[row][:size].view(shape)
    return found


@GATED
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes an image on one core without instructions for bf16
@pytest.mark.proves("metric", name="vqa_score:clip-flant5-xl", weights="random", remark="a SentencePiece of its own")
def test_the_score_goes_from_the_file_of_the_xl_network_to_a_chance(tmp_path, pieces):
    with torch.device("meta"):
        made = parts(32_128)
    assert sum(parameter.numel() for part in made for parameter in set(part.parameters())) == PARAMS
    states = list(map(one_storage_each, made))
    torch.save(named(*states), tmp_path / "flan.bin")
    del states
    gc.collect()
    metric = metrics.load("vqa_score:clip-flant5-xl")
    metric.load(networks({"clip-flant5-xl": tmp_path / "flan.bin", "flan-t5-tokenizer": pieces}))
    first, second = metric.score(images(2, 512, 512), PROMPTS[:2]).tolist()
    assert 0 < first < 1 and 0 < second < 1 and first != second
    (tmp_path / "flan.bin").unlink()
