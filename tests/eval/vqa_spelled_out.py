"""BLIP's network that answers, in plain torch with the names of the authors' file, and a tokenizer like BERT's."""

import torch
import torch.nn.functional as F
from blip_spelled_out import Eye, Reader
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

WORDS = ("a", "green", "bench", "red", "car", "the", "?", "blue", "rug")
FIRST = 3_000  # the id of the first of them


class Answerer(nn.Module):
    """Eye, reader of the question and writer of the answer; `sizes` are width, layers and heads of eye and of both."""

    def __init__(self, eye, text):
        super().__init__()
        width, layers, heads = text
        self.visual_encoder = Eye(*eye)
        self.visual_encoder.pos_embed = nn.Parameter(torch.zeros(1, 30 * 30 + 1, eye[0]))
        self.text_encoder = Reader(30_524, width, layers, heads, eye[0])
        head = nn.Module()
        head.transform = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        head.decoder = nn.Linear(width, 30_524)
        head.bias = head.decoder.bias  # both names are in the file
        self.text_decoder = nn.ModuleDict(
            {
                "bert": Reader(30_524, width, layers, heads, width),
                "cls": nn.ModuleDict({"predictions": head}),
            }
        )

    def forward(self, pixels, ids):
        """P(yes) of P(yes or no): `ids` is one unpadded question, which is asked about one image."""
        ids = torch.tensor([[30_523, *ids[1:]]])
        read = self.text_encoder(ids, self.visual_encoder(pixels))
        states = self.text_decoder["bert"](torch.tensor([[30_522]]), read)[:, 0]
        head = self.text_decoder["cls"]["predictions"]
        logits = head.decoder(head.transform["LayerNorm"](F.gelu(head.transform["dense"](states))))
        chances = logits.softmax(dim=1)[0]
        return chances[2748] / (chances[2748] + chances[2053])


def write_tokenizer(path):
    """The file of a tokenizer with BERT's special tokens, yes and no where BERT has them, and few other words."""
    words = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "no": 2053, "yes": 2748}
    words |= {word: FIRST + place for place, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    made.save(str(path))
    return path


def ids_of(question):
    """What the tokenizer makes of a question of its words, cut to 35."""
    words = question.replace("?", " ?").split()
    return [101, *(FIRST + WORDS.index(word) for word in words[:33]), 102]
