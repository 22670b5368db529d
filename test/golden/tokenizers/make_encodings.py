"""Makes encodings.json.gz: offsets, word ids, type ids, masks, pairs, truncation and padding by Hugging Face `tokenizers` (0.23.3), with the
tokenizers of kinds.json.gz and some more around GPT-2's way of cutting.

    python test/golden/tokenizers/make_encodings.py
"""

import copy
import gzip
import json

from make import HERE, write_gz
from tokenizers import Tokenizer

TEXTS = [
    "Hello, world! It's   the fox's 1234 day.",
    "天地玄黄，宇宙洪荒。混合English和中文words。",
    "emoji 😀 and 👩‍👩‍👧 and 🇨🇳 flags",
    "e\u0301\u0323 a\u0323\u0308 \u1100\u1161\u11a8 한글 ÅNGSTRÖM naïve ﬁne ①② ㌔ ｶﾞ İstanbul",
    "one\r\ntwo\r\n\r\n  three\t\tfour\u3000five \u00a0six",
    "<s> text </s> [CLS] mask [SEP]<|endoftext|> end",
    "  leading and trailing  ",
    "soft\u00adhyphen zero\u200bwidth ab\u0000cd \ufeff line\u2028sep \u09c7\u09be \u0344",
    "",
    " ",
    "a",
    "supercalifragilisticexpialidocious " * 3,
]
PAIRS = [
    ("What is a fox?", "A fox is a small animal. 狐狸是小动物。"),
    ("short", "a much longer second text that goes on, and on, and on 😀"),
    ("a much longer first text that goes on, and on, and on, until it ends", "b"),
    ("", "empty first"),
    ("empty second", ""),
]


def columns(e):
    return {
        "ids": e.ids,
        "tokens": e.tokens,
        "typeIds": e.type_ids,
        "offsets": [list(o) for o in e.offsets],
        "wordIds": e.word_ids,
        "attentionMask": e.attention_mask,
        "specialTokensMask": e.special_tokens_mask,
    }


def whole(e):
    return {**columns(e), "overflowing": [columns(o) for o in e.overflowing]}


def cases():
    kinds = {c["name"]: c["tokenizer"] for c in json.loads(gzip.decompress((HERE / "kinds.json.gz").read_bytes()))}
    for name, file in kinds.items():
        if not name.startswith("truncation"):
            yield name, name, {}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    yield "byte-level, trimmed, prefix", "RoBERTa", {"pre_tokenizer": level, "post_processor": level}
    yield "byte-level, not trimmed", "RoBERTa", {"post_processor": {**level, "trim_offsets": False}}
    for form in ["NFC", "NFD", "NFKC", "NFKD"]:
        yield form, "RoBERTa", {"normalizer": {"type": form}}
    cut = {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }
    bert = "BERT, uncased"
    yield "longest first, stride", bert, {"truncation": {**cut, "stride": 3}}
    yield "longest first, left", bert, {"truncation": {**cut, "direction": "Left", "stride": 2}}
    yield "longest first, odd", bert, {"truncation": {**cut, "max_length": 8}}
    yield "only first", bert, {"truncation": {**cut, "strategy": "OnlyFirst", "max_length": 50, "stride": 1}}
    yield "only second", bert, {"truncation": {**cut, "strategy": "OnlySecond", "max_length": 50, "stride": 1}}
    yield "padded", bert, {"truncation": {**cut, "stride": 2}, "padding": {**pad, "pad_to_multiple_of": 8}}
    yield "padded on the left", bert, {"truncation": cut, "padding": {**pad, "strategy": {"Fixed": 16}, "direction": "Left", "pad_type_id": 1}}


def main():
    kinds = {c["name"]: c["tokenizer"] for c in json.loads(gzip.decompress((HERE / "kinds.json.gz").read_bytes()))}
    out = []
    for name, base, changes in cases():
        tokenizer = Tokenizer.from_str(json.dumps({**copy.deepcopy(kinds[base]), **changes}))
        strategy = (changes.get("truncation") or {}).get("strategy")
        texts = [t for t in TEXTS if strategy in (None, "LongestFirst")]
        pairs = PAIRS
        encode = lambda batch: [whole(e) for e in tokenizer.encode_batch(batch)]
        out.append({"name": name, "base": base, "changes": changes, "texts": texts, "pairs": pairs,
                    "single": encode(texts), "pair": encode(pairs),
                    "plain": [whole(tokenizer.encode(t, add_special_tokens=False)) for t in texts[:4]]})
    write_gz("encodings.json.gz", json.dumps(out, ensure_ascii=True))


main()
