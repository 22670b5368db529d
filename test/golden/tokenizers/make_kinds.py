"""Makes kinds.json.gz: tokenizers of every kind beyond byte-level BPE, with ids and decoded texts, by Hugging Face `tokenizers` (0.23.3)
and `sentencepiece` (0.2.3).

    python test/golden/tokenizers/make_kinds.py
"""

import base64
import io
import json
import struct
from pathlib import Path

import sentencepiece
from make import CHINESE, HERE, ROOT, TEXTS, write_gz
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SHAKESPEARE = (ROOT / "data" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:60000]
CORPUS = [*SHAKESPEARE.split("\n"), *(CHINESE.split("\n") * 3), *TEXTS]
# What the models' own rules turn on: forms that NFKC changes, accents, white space, marks around words.
MORE = [
    "ＦＵＬＬ　ｗｉｄｔｈ ﬁne ①②③ ㌔ ｶﾞ ½ ™ ℌ x² … ˮ",
    "À É ö ñ Ça va? naïve coöperate ÅNGSTRÖM ǅ İstanbul ΣΑΣ ς",
    "e\u0301\u0323 a\u0308\u0301 \u1100\u1161\u11a8 한글 क्षि ำ \u0e33",
    "soft\u00adhyphen zero\u200bwidth \u200dzwj\u200d \u2060 \ufeffbom \u202eRTL",
    "line\u2028sep\u2029para\u000bvt\u000cff\u0085nel\u001c",
    "don't won't I'm he's they've we're . , ! ? ' n't",
    "[UNK] [CLS] <unk> <s> </s> <pad> ▁▁ a▁b ▁",
    "supercalifragilistic" * 8,
    "混合English和中文words，以及123数字！",
    "  leading and trailing  ",
    "a  b   c    d\t\te\n\nf",
    "\ue000private \U000f0000 \ud7ff \uffff",
    "ab\u0000cd",
]
ALL = TEXTS + MORE


def record(name, tokenizer, texts=ALL):
    ids = [tokenizer.encode(t).ids for t in texts]
    plain = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    return {
        "name": name,
        "tokenizer": json.loads(tokenizer.to_str()),
        "texts": texts,
        "ids": ids,
        "plain": plain,
        "decoded": [tokenizer.decode(i, skip_special_tokens=False) for i in ids],
        "skipped": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
    }


def bert(**options):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def sp_train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in CORPUS if line.strip() and "\0" not in line]),
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def t5(model):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocab = [(p.piece, p.score) for p in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=proto.trainer_spec.unk_id, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    eos = proto.trainer_spec.eos_id
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", eos)])
    tokenizer.add_special_tokens([AddedToken("</s>", normalized=False), AddedToken("<unk>", normalized=False)])
    return tokenizer


def llama(legacy):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    special = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)]]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=900, special_tokens=special, limit_alphabet=150, show_progress=False))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return tokenizer


def unigram_trained():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=500, unk_token="<unk>", special_tokens=["<unk>", "<s>"], show_progress=False)
    )
    return tokenizer


def clip():
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], end_of_word_suffix="</w>", show_progress=False)
    )
    return tokenizer


def roberta():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def wordlevel():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("contiguous")])
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


def main():
    cases = [
        record("BERT, uncased", bert()),
        record("BERT, cased, Chinese together", bert(lowercase=False, handle_chinese_chars=False)),
        record("BERT, accents kept", bert(strip_accents=False)),
        record("LLaMA, legacy", llama(True)),
        record("LLaMA", llama(False)),
        record("Unigram, trained", unigram_trained()),
        record("CLIP", clip()),
        record("RoBERTa", roberta()),
        record("words", wordlevel()),
    ]
    cut = bert()
    cut.enable_truncation(8)
    cut.enable_padding(length=12, pad_id=0, pad_token="[PAD]")
    cases.append(record("truncation and padding", cut))
    cut.enable_truncation(8, direction="left")
    cut.enable_padding(direction="left", pad_id=0, pad_token="[PAD]", pad_to_multiple_of=5)
    cases.append(record("truncation and padding on the left", cut))

    models_ = {}
    for name, options in {
        "unigram": dict(model_type="unigram", vocab_size=700, normalization_rule_name="nmt_nfkc", character_coverage=0.99),
        "unigram-bytes": dict(model_type="unigram", vocab_size=700, byte_fallback=True, character_coverage=0.98, user_defined_symbols=["<sep>", "king"], normalization_rule_name="nfkc_cf"),
        "bpe-bytes": dict(model_type="bpe", vocab_size=900, byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
        "bpe": dict(model_type="bpe", vocab_size=700, character_coverage=0.99, add_dummy_prefix=False, user_defined_symbols=["<sep>"], normalization_rule_name="identity"),
    }.items():
        model = sp_train(**options)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = [processor.encode(t) for t in ALL]
        models_[name] = {
            "model": base64.b64encode(model).decode(),
            "texts": ALL,
            "ids": ids,
            "decoded": [processor.decode(i) for i in ids],
        }
        if name == "unigram":
            cases.append(record("T5", t5(model)))
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)]]
    trained.train_from_iterator(
        SHAKESPEARE.split("\n"), trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    )
    write_gz("trained-characters.json.gz", json.dumps([trained.id_to_token(i) for i in range(900)]))
    write_gz("kinds.json.gz", json.dumps(cases, ensure_ascii=True))
    write_gz("sentencepiece.json.gz", json.dumps(models_, ensure_ascii=True))


main()
