"""Makes offsets.json.gz: where in a text each piece comes from, by `sentencepiece` (0.2.3) for the models of sentencepiece.json.gz, and by
`tiktoken` (0.14) for GPT-2's vocabulary.

    python test/golden/tokenizers/make_offsets.py
"""

import base64
import gzip
import json

import sentencepiece
import tiktoken
from make import HERE, write_gz

MORE = [
    "   \ufb01ve  \u2460\u2461  \u3000 wide　 ",
    "\u2581 x \u2581\u2581y \u2581",
    "Q\u00e6\U0001f98a\U0001f98a\u4e42\u4e42 \u4e42 king<sep>kings <sep> ",
    "a\u0301\u0323\u1100\u1161\u11a8 \u3314 \u00bd\u2026",
    "\n\n \r\n\t x\u00a0 y",
    " ",
    "",
]
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def of_sentencepiece(model, texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(model))
    out = []
    for text in texts:
        pieces = processor.encode(text, return_type="proto").pieces
        data = text.encode()
        # Bytes there, code points here.
        offsets = [[len(data[:at].decode()) for at in (p.begin, p.end)] for p in pieces]
        out.append({"text": text, "ids": [p.id for p in pieces], "offsets": offsets})
    return out


def of_tiktoken(texts):
    merges = gzip.decompress((HERE / "gpt2-merges.txt.gz").read_bytes()).decode().split("\n")[1:]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}
    back = {c: b for b, c in alphabet.items()}
    tokens = [*sorted(alphabet.values()), *["".join(m.split(" ")) for m in merges if m]]
    ranks = {bytes(back[c] for c in token): i for i, token in enumerate(tokens)}
    encoding = tiktoken.Encoding(name="gpt2", pat_str=R50K, mergeable_ranks=ranks, special_tokens={})
    out = []
    for text in texts:
        ids = encoding.encode_ordinary(text)
        out.append({"text": text, "ids": ids, "starts": encoding.decode_with_offsets(ids)[1]})
    return out


def main():
    models = json.loads(gzip.decompress((HERE / "sentencepiece.json.gz").read_bytes()))
    made = {name: of_sentencepiece(m["model"], m["texts"] + MORE) for name, m in models.items()}
    texts = next(iter(models.values()))["texts"] + MORE
    write_gz("offsets.json.gz", json.dumps({"sentencepiece": made, "tiktoken": of_tiktoken(texts)}))


main()
