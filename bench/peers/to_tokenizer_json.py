"""Writes a SentencePiece model as the tokenizer.json that Hugging Face has for models of its kind, to compare the two ways of reading one
vocabulary: BPE as LLaMA's file has it, Unigram as T5's.

    python bench/peers/to_tokenizer_json.py FILE.model FILE.json
"""

import json
import sys

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def merges_of(pieces):
    """Every way to make a piece of two others; the best score first, and for one piece by the ids of its parts."""
    ids = {p.piece: i for i, p in enumerate(pieces)}
    made = []
    for id, p in enumerate(pieces):
        if p.type != NORMAL:
            continue
        ways = [(p.piece[:i], p.piece[i:]) for i in range(1, len(p.piece))]
        ways = [way for way in ways if way[0] in ids and way[1] in ids]
        made += [(-p.score, id, ids[a], ids[b], a, b) for a, b in ways]
    return [(a, b) for *_, a, b in sorted(made)]


def bpe(proto):
    pieces = proto.pieces
    vocab = {p.piece: i for i, p in enumerate(pieces)}
    unknown = next(p.piece for p in pieces if p.type == UNKNOWN)
    has_bytes = any(p.type == BYTE for p in pieces)
    tokenizer = Tokenizer(models.BPE(vocab, merges_of(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def unigram(proto):
    vocab = [(p.piece, p.score) for p in proto.pieces]
    has_bytes = any(p.type == BYTE for p in proto.pieces)
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=proto.trainer_spec.unk_id, byte_fallback=has_bytes))
    steps = [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)] if proto.normalizer_spec.precompiled_charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def main(source, target):
    proto = sentencepiece_model_pb2.ModelProto.FromString(open(source, "rb").read())
    tokenizer = bpe(proto) if proto.trainer_spec.model_type == 2 else unigram(proto)
    special = [p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in special])
    begin = proto.trainer_spec.bos_piece
    if tokenizer.token_to_id(begin) is not None and proto.trainer_spec.model_type == 2:
        id = tokenizer.token_to_id(begin)
        tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A", f"{begin} $A {begin} $B", [(begin, id)])
    # Read once more, so that its scores are those that a reader of the file gets.
    text = tokenizer.to_str()
    Tokenizer.from_str(text)
    with open(target, "w", encoding="utf-8") as out:
        json.dump(json.loads(text), out, ensure_ascii=False)


main(*sys.argv[1:])
