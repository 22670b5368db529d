"""Random `tokenizer.json` files of every kind of part, and what Hugging Face `tokenizers` (0.23.3) makes of hard texts with them.

    python test/golden/tokenizers/fuzz.py COUNT [SEED] > cases.jsonl

One line each: the file, texts, and ids, tokens, offsets, masks and decoded texts; or `refused`, where `tokenizers` does not read the file. A text may
hold a lone surrogate, which JavaScript has and Rust has not: `tokenizers` is given U+FFFD in its place. `node --import tsx bench/fuzz-tokenizers.ts`
compares.
"""

import json
import random
import re
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't you think it's 3 or 12 dogs?",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
    "def f(x):\n    return x + 1\r\n\tprint('hello')  # hello hello hello",
    "naïve café Ångström ÀÉÖ ﬁne ①② ½ İstanbul ΣΑΣ",
    "👩‍👩‍👧 👍🏽 🇩🇪 😀 שלום عربي हिन्दी क्षि 한글",
    "the the the and and hello hello world world [UNK] <s> </s> a a b b c c",
]

WORDS = [
    "the", "quick", "hello", "Hello", "HELLO", "don't", "it's", "12", "3456", "½", "①", "x²", "naïve", "café", "cafe\u0301", "Å", "A\u030a", "ﬁne", "İ", "ΣΑΣ", "ß",
    "学而", "时习", "中文English", "，", "。", "「」", "👩‍👩‍👧", "👍🏽", "🇩🇪", "😀", "שלום", "عربي", "\u202eRTL", "हिन्दी", "क्षि", "한글", "\u1100\u1161\u11a8", "\u0345", "e\u0301\u0323",
    "\0", "\u0001", "\u007f", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u0085", "\u00a0", "\u3000", "\t", "\n", "\r\n", " ", "  ", "   ", "\n\n", "▁", "a▁b", "Ġ", "\ufffd",
    "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>", "<mask>", "<pad>", " <mask> ", "x<mask>y", "WORD", "wordWORD", "hello world", "<0x41>", "##ing", "</w>", ".", ",", "?", "!", "'", "-", "_", "a_b", "$", "(x)", "n't",
    "a" * 60, "学" * 40, " " * 30, "\U0010ffff", "\ud7ff", "\ue000", "\ud800", "ｶﾞ", "Ｆ", "ㅎ", "\u0e33", "ำ", "K", "ſ", "j\u030c", "\u0130i",
]


def text(r):
    if r.random() < 0.03:
        return ""
    n = r.choice([1, 1, 2, 3, 5, 8, 14])
    joint = r.choice(["", " ", " ", ""])
    return joint.join(r.choice(WORDS) for _ in range(n))


def trained(r):
    """A small model part."""
    special = ["<unk>", "<s>", "</s>"]
    kind = r.choice(["bytes", "bytes", "bpe", "bpe", "fallback", "unigram", "wordpiece", "words"])
    corpus = CORPUS * 3
    size = r.choice([120, 200, 330])
    if kind == "bytes":
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size + 256, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    elif kind == "bpe" or kind == "fallback":
        extra = dict(continuing_subword_prefix=r.choice([None, None, "##"]), end_of_word_suffix=r.choice([None, None, "</w>"]))
        if kind == "fallback":
            extra, special = {}, special + [f"<0x{b:02X}>" for b in range(256)]
        extra = {k: v for k, v in extra.items() if v is not None}
        if r.random() < 0.7:
            extra["unk_token"] = "<unk>"
        t = Tokenizer(models.BPE(**extra))
        extra.pop("unk_token", None)
        t.pre_tokenizer = r.choice([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size + len(special), limit_alphabet=60, special_tokens=special, show_progress=False, **extra))
    elif kind == "unigram":
        t = Tokenizer(models.Unigram())
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        t.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", special_tokens=special, show_progress=False))
    elif kind == "wordpiece":
        t = Tokenizer(models.WordPiece(unk_token="<unk>"))
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=size, limit_alphabet=70, special_tokens=special, show_progress=False))
    else:
        t = Tokenizer(models.WordLevel(unk_token="<unk>"))
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.train_from_iterator(corpus, trainers.WordLevelTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    part = json.loads(t.to_str())["model"]
    if part["type"] == "BPE":
        part["fuse_unk"] = r.random() < 0.5
        part["ignore_merges"] = r.random() < 0.4
        part["byte_fallback"] = kind == "fallback" or r.random() < 0.2
        if kind == "fallback" and r.random() < 0.3:
            del part["vocab"]["<0xF0>"]  # ids then have a hole
        if r.random() < 0.1:
            part["dropout"] = r.choice([0.0, 0.5])
        if kind == "bytes" and r.random() < 0.2:
            part["unk_token"] = "<unk>"
            # A byte the vocabulary lacks.
            gone = r.choice(["é", "Ł", "¤"])
            part["vocab"] = {k: v for k, v in part["vocab"].items() if gone not in k}
            part["merges"] = [m for m in part["merges"] if gone not in "".join(m)]
    if part["type"] == "Unigram":
        if r.random() < 0.15:
            part["unk_id"] = None
        if r.random() < 0.3:
            part["byte_fallback"] = True
            if r.random() < 0.7:
                part["vocab"] += [[f"<0x{b:02X}>", 0.0] for b in range(256)]
    if part["type"] == "WordPiece":
        part["max_input_chars_per_word"] = r.choice([100, 5, 30])
    return kind, part


def pattern(r):
    return r.choice(
        [
            {"String": " "}, {"String": "a"}, {"String": "学"}, {"String": "hello"}, {"String": ""}, {"String": "▁"},
            {"Regex": r"\s+"}, {"Regex": r"\p{L}+|\p{N}+"}, {"Regex": r"\d{1,3}"}, {"Regex": r"[^\r\n\p{L}\p{N}]?\p{L}+"}, {"Regex": r" {2,}"}, {"Regex": "[0-9]"},
            {"Regex": r"\w+|[^\w\s]+"}, {"Regex": r"(?i:'s|'t|'re)|\S+"}, {"Regex": r"^\s"}, {"Regex": r"\s+$"}, {"Regex": r"\b"}, {"Regex": r"x*"}, {"Regex": r"."}, {"Regex": r"[\p{P}\p{S}]"},
        ]
    )


def normalizer(r, depth=0):
    kind = r.choice(
        ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel", "Strip", "Prepend", "Replace", "Replace", "BertNormalizer"]
        + (["Sequence"] * 4 if depth == 0 else [])
    )
    flag = lambda: r.random() < 0.5
    extra = {
        "Strip": lambda: dict(strip_left=flag(), strip_right=flag()),
        "Prepend": lambda: dict(prepend=r.choice(["▁", " ", "xy"])),
        "Replace": lambda: dict(pattern=pattern(r), content=r.choice(["▁", "", " ", "xyz", "学"])),
        "BertNormalizer": lambda: dict(clean_text=flag(), handle_chinese_chars=flag(), strip_accents=r.choice([None, True, False]), lowercase=flag()),
        "Sequence": lambda: dict(normalizers=[normalizer(r, 1) for _ in range(r.choice([0, 1, 2, 3]))]),
    }
    return {"type": kind, **extra.get(kind, dict)()}


BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def metaspace(r):
    part = {"type": "Metaspace", "replacement": r.choice(["▁", "▁", "▁", "_"]), "prepend_scheme": r.choice(["first", "never", "always"]), "split": r.random() < 0.6}
    if r.random() < 0.2:
        part["add_prefix_space"] = r.random() < 0.5
    return part


def byte_level(r):
    return {"type": "ByteLevel", "add_prefix_space": r.random() < 0.5, "trim_offsets": r.random() < 0.5, "use_regex": r.random() < 0.6}


def pre_tokenizer(r, depth=0):
    kind = r.choice(
        ["ByteLevel", "Metaspace", "Metaspace", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation", "CharDelimiterSplit", "Split", "Split", "UnicodeScripts", "FixedLength"]
        + (["Sequence"] * 4 if depth == 0 else [])
    )
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "Metaspace":
        return metaspace(r)
    extra = {
        "Digits": lambda: dict(individual_digits=r.random() < 0.5),
        "Punctuation": lambda: dict(behavior=r.choice(BEHAVIORS)),
        "CharDelimiterSplit": lambda: dict(delimiter=r.choice([" ", "a", "学"])),
        "FixedLength": lambda: dict(length=r.choice([1, 2, 5])),
        "Split": lambda: dict(pattern=pattern(r), behavior=r.choice(BEHAVIORS), invert=r.random() < 0.4),
        "Sequence": lambda: dict(pretokenizers=[pre_tokenizer(r, 1) for _ in range(r.choice([0, 1, 2, 3]))]),
    }
    return {"type": kind, **extra.get(kind, dict)()}


def processor(r, vocab, depth=0):
    kind = r.choice(["ByteLevel", "BertProcessing", "RobertaProcessing", "TemplateProcessing", "TemplateProcessing"] + (["Sequence"] if depth == 0 else []))
    token = lambda name: [name, vocab[name]]
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "BertProcessing":
        return {"type": kind, "sep": token("</s>"), "cls": token("<s>")}
    if kind == "RobertaProcessing":
        return {"type": kind, "sep": token("</s>"), "cls": token("<s>"), "trim_offsets": r.random() < 0.5, "add_prefix_space": r.random() < 0.5}
    if kind == "Sequence":
        return {"type": kind, "processors": [processor(r, vocab, 1) for _ in range(r.choice([1, 2]))]}
    special = lambda name: {"SpecialToken": {"id": name, "type_id": r.choice([0, 0, 1])}}
    sequence = lambda name, type_id: {"Sequence": {"id": name, "type_id": type_id}}
    around = lambda: [special(r.choice(["<s>", "</s>"])) for _ in range(r.choice([0, 1, 1, 2]))]
    single = around() + [sequence("A", r.choice([0, 0, 2]))] + around()
    pair = around() + [sequence("A", 0)] + around() + [sequence("B", r.choice([1, 0]))] + around()
    if r.random() < 0.1:
        pair = [sequence("B", 1), special("</s>"), sequence("A", 0)]
    names = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ["<s>", "</s>"]}
    if r.random() < 0.2:
        names["<s>"] = {"id": "<s>", "ids": [vocab["<s>"], vocab["</s>"]], "tokens": ["<s>", "</s>"]}
    return {"type": kind, "single": single, "pair": pair, "special_tokens": names}


def decoder(r, depth=0):
    kind = r.choice(["ByteLevel", "Metaspace", "ByteFallback", "Fuse", "WordPiece", "BPEDecoder", "Strip", "Replace", "CTC"] + (["Sequence"] * 4 if depth == 0 else []))
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "Metaspace":
        return metaspace(r)
    extra = {
        "WordPiece": lambda: dict(prefix=r.choice(["##", "▁"]), cleanup=r.random() < 0.5),
        "BPEDecoder": lambda: dict(suffix=r.choice(["</w>", "e"])),
        "Strip": lambda: dict(content=r.choice([" ", "▁", "h"]), start=r.choice([0, 1, 2]), stop=r.choice([0, 1, 2])),
        "Replace": lambda: dict(pattern=pattern(r), content=r.choice([" ", "", "xy"])),
        "CTC": lambda: dict(pad_token="<s>", word_delimiter_token="▁", cleanup=r.random() < 0.5),
        "Sequence": lambda: dict(decoders=[decoder(r, 1) for _ in range(r.choice([0, 1, 2, 3, 4]))]),
    }
    return {"type": kind, **extra.get(kind, dict)()}


def tokenizer(r):
    kind, model = trained(r)
    vocab = {p[0]: i for i, p in enumerate(model["vocab"])} if model["type"] == "Unigram" else model["vocab"]
    vocab = dict(vocab)
    flag = lambda p=0.3: r.random() < p
    added = []
    following = len(model["vocab"]) if model["type"] != "Unigram" else len(vocab)
    for name in r.sample(["<unk>", "<s>", "</s>", "<mask>", "<pad>", "WORD", "hello world", "学", " x", "é学", "the", "THE", "▁▁", "[CLS]", "\n"], r.choice([0, 2, 4, 7])):
        if name in vocab:
            number = vocab[name]
        else:
            number, following = following, following + 1
        added.append({"id": number, "content": name, "single_word": flag(), "lstrip": flag(), "rstrip": flag(), "normalized": flag(0.5), "special": flag(0.6)})
    file = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": sorted(added, key=lambda t: t["id"]),
        "normalizer": normalizer(r) if flag(0.6) else None,
        "pre_tokenizer": pre_tokenizer(r) if flag(0.8) else None,
        "post_processor": processor(r, vocab) if flag(0.6) else None,
        "decoder": decoder(r) if flag(0.85) else None,
        "model": model,
    }
    if kind == "bytes" and flag(0.75):
        step = byte_level(r)
        file["pre_tokenizer"] = step if flag(0.5) else {"type": "Sequence", "pretokenizers": [pre_tokenizer(r, 1), step]}
        file["decoder"] = byte_level(r)
    if flag(0.3):
        file["truncation"] = {"direction": r.choice(["Left", "Right"]), "max_length": r.choice([0, 1, 3, 5, 9, 20]), "strategy": r.choice(["LongestFirst", "OnlyFirst", "OnlySecond"]), "stride": r.choice([0, 0, 1, 2, 6])}
    if flag(0.3):
        file["padding"] = {
            "strategy": r.choice(["BatchLongest", {"Fixed": r.choice([0, 4, 12, 20])}]), "direction": r.choice(["Left", "Right"]),
            "pad_to_multiple_of": r.choice([None, None, 8, 3, 0]), "pad_id": 1, "pad_type_id": r.choice([0, 3]), "pad_token": "<s>",
        }
    return file


def plain(e):
    row = {"ids": e.ids, "tokens": e.tokens, "typeIds": e.type_ids, "offsets": e.offsets, "wordIds": e.word_ids, "attentionMask": e.attention_mask, "specialTokensMask": e.special_tokens_mask}
    row["overflowing"] = [plain(o) for o in e.overflowing]
    return row


def attempt(f):
    try:
        return f()
    except BaseException as error:  # Rust's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt):
            raise
        return {"error": str(error)[:200]}


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    out = open(1, "w", encoding="ascii")
    for number in range(count):
        r = random.Random(seed * 1_000_003 + number)
        file = tokenizer(r)
        case = {"number": number, "seed": seed, "file": file}
        loaded = attempt(lambda: Tokenizer.from_str(json.dumps(file)))
        if isinstance(loaded, dict):
            out.write(json.dumps({**case, "refused": loaded["error"]}) + "\n")
            continue
        if file["truncation"] and attempt(lambda: loaded.encode("x")) is None:
            continue
        texts = [text(r) for _ in range(6)] + [" hello world", "<s>hello <mask> the WORD学</s>"]
        safe = [re.sub("[\ud800-\udfff]", "\ufffd", t) for t in texts]
        size = loaded.get_vocab_size()
        known = [i for i in range(size + 3) if loaded.id_to_token(i) is not None]
        drawn = [[r.choice(known) for _ in range(r.choice([1, 2, 5, 12]))] for _ in range(6)]
        special = {t["id"] for t in file["added_tokens"]}
        drawn += [[r.choice(sorted(special)) if special and r.random() < 0.4 else r.choice(known) for _ in range(8)]]
        case["texts"] = texts
        case["single"] = [attempt(lambda t=t: plain(loaded.encode(t))) for t in safe]
        case["bare"] = [attempt(lambda t=t: plain(loaded.encode(t, add_special_tokens=False))) for t in safe]
        case["pair"] = [attempt(lambda a=a, b=b: plain(loaded.encode(a, b))) for a, b in zip(safe, safe[1:])]
        ids = [row["ids"] for row in case["bare"] if "ids" in row] + drawn
        case["ids"] = ids
        case["decoded"] = [attempt(lambda i=i: loaded.decode(i, skip_special_tokens=False)) for i in ids]
        case["skipped"] = [attempt(lambda i=i: loaded.decode(i, skip_special_tokens=True)) for i in ids]

        def stream(i):
            steps = decoders.DecodeStream(skip_special_tokens=False)
            return [steps.step(loaded, x) for x in i]

        case["streamed"] = [attempt(lambda i=i: stream(i)) for i in ids]
        out.write(json.dumps(case) + "\n")


main()
