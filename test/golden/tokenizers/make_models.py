"""Makes models.json.gz: small SentencePiece models with the options that change how text is read, with ids and texts by `sentencepiece` (0.2.3).

    python test/golden/tokenizers/make_models.py
"""

import base64
import io
import json
import random

import sentencepiece
from make import CHINESE, HERE, ROOT, write_gz
from sentencepiece import sentencepiece_model_pb2

SHAKESPEARE = (ROOT / "data" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:12000]
CORPUS = [line for line in [*SHAKESPEARE.split("\n"), *(CHINESE.split("\n") * 3), "Ｆｕｌｌ １２３ ÀÉ straße 12 345", "x<sep>y  z"] if line.strip()]
# What rules turn on; texts are made of these.
PARTS = """hello|the |To be|Ünï|ÀÉ|中文|。|１２３|123| 12|\n|\t| |  |   |\u00a0|\u3000|😀|👩‍👩‍👧|가|ﬁ|①|½|İ|ß|\u0301|<sep>|<cls>|<s>|<unk>|<0x41>|▁|▁▁|a|\u200b|\0|\u0007|\u0085|ｶﾞ|ell""".split("|")
MODELS = {
    "bytes": dict(model_type="bpe", byte_fallback=True, split_digits=True),
    "case folded, pieces of a user's with spaces": dict(
        model_type="unigram", normalization_rule_name="nmt_nfkc_cf", user_defined_symbols=["<sep>", "  ", "ell"], control_symbols=["<cls>"]
    ),
    "case folded, no space too many": dict(model_type="bpe", normalization_rule_name="nmt_nfkc_cf", remove_extra_whitespaces=False),
    "white space after words": dict(model_type="bpe", treat_whitespace_as_suffix=True, remove_extra_whitespaces=False),
    "white space after words, Unigram": dict(
        model_type="unigram", treat_whitespace_as_suffix=True, user_defined_symbols=["  ", "\t"]
    ),
    "nothing in front": dict(model_type="unigram", add_dummy_prefix=False, remove_extra_whitespaces=False, byte_fallback=True),
    "unused pieces": dict(model_type="bpe", user_defined_symbols=["<sep>"], unused=True),
    "unused pieces, Unigram": dict(model_type="unigram", unused=True, unk_surface="?", bos_id=-1),
    "spaces as they are": dict(model_type="bpe", escape=False, split_by_whitespace=False),
    "words": dict(model_type="word"),
    "characters": dict(model_type="char"),
}


def made(options, rnd):
    # A character map is large: only one model has one.
    options = {"normalization_rule_name": "identity", **options}
    unused, escape = options.pop("unused", False), options.pop("escape", True)
    file = io.BytesIO()
    size = 120 if options["model_type"] == "char" else 560
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=file, vocab_size=size, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(file.getvalue())
    model.normalizer_spec.escape_whitespaces = escape
    if unused:
        for piece in model.pieces:
            if piece.type == 1 and len(piece.piece) > 1 and rnd.random() < 0.15:
                piece.type = 5
    return model.SerializeToString()


def main():
    rnd = random.Random(1)
    out = []
    for name, options in MODELS.items():
        model = made(options, rnd)
        known = options["model_type"] in ("bpe", "unigram")
        record = {"name": name, "kind": options["model_type"], "model": base64.b64encode(model).decode(), "texts": []}
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        if known:
            record["texts"] = ["", *PARTS, *("".join(rnd.choice(PARTS) for _ in range(rnd.randint(2, 12))) for _ in range(60))]
            record["ids"] = [processor.encode(text) for text in record["texts"]]
            plain = [i for i in range(processor.vocab_size()) if not processor.is_control(i)]
            record["random"] = [[rnd.choice(plain) for _ in range(8)] for _ in range(20)]
            record["decoded"] = [processor.decode(ids) for ids in [*record["ids"], *record["random"]]]
        out.append(record)
    write_gz(HERE / "models.json.gz", json.dumps(out, ensure_ascii=True, separators=(",", ":")))


if __name__ == "__main__":
    main()
