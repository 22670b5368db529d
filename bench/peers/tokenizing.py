"""The other side of `npm run bench -- tokenizers`: tiktoken, tokenizers and sentencepiece. The variant says which."""

import gzip
import hashlib
import json
import os
import time
from pathlib import Path

from protocol import THREADS, need, serve

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if THREADS > 1 else "false")

try:
    import numpy
    import sentencepiece
    import tiktoken
    import tokenizers
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError as error:
    need(error)

MERGES = Path(__file__).parents[2] / "test" / "golden" / "tokenizers" / "gpt2-merges.txt.gz"
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def alphabet():
    """byte -> its character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def gpt2():
    merges = gzip.decompress(MERGES.read_bytes()).decode().split("\n")[1:]
    merges = [tuple(m.split(" ")) for m in merges if m]
    return sorted(alphabet().values()) + [a + b for a, b in merges], merges


def bytes_ids(ids):
    return numpy.asarray(ids, dtype="<u4").tobytes()


def summary(lists):
    digest, count = hashlib.sha256(), 0
    for ids in lists:
        digest.update(bytes_ids(ids))
        count += len(ids)
    return f"{count} {digest.hexdigest()[:16]}"


def each(lists):
    return [hashlib.sha256(bytes_ids(ids)).hexdigest()[:12] for ids in lists]


def with_tiktoken(p):
    tokens, _ = gpt2()
    back = {c: b for b, c in alphabet().items()}
    ranks = {bytes(back[c] for c in token): i for i, token in enumerate(tokens)}
    encoding = tiktoken.Encoding(name=p["pattern"], pat_str=p["expression"] or R50K, mergeable_ranks=ranks, special_tokens={})
    if THREADS == 1:
        return f"tiktoken {tiktoken.__version__}", lambda texts: [encoding.encode_ordinary(text) for text in texts]
    return f"tiktoken {tiktoken.__version__}", lambda texts: encoding.encode_ordinary_batch(texts, num_threads=THREADS)


def byte_level(model, expression):
    tokenizer = Tokenizer(model)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=expression is None)
    if expression is not None:
        level = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated", False), level])
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_tokenizers(p):
    about = f"tokenizers {tokenizers.__version__}"
    if p["pattern"].endswith(".txt"):
        bert = tokenizers.BertWordPieceTokenizer(p["pattern"], lowercase=True)
        # Text that spells a special token is text on our side.
        bert._tokenizer.encode_special_tokens = True
        tokenizer = bert._tokenizer
    elif p["pattern"].endswith(".json"):
        # Special tokens in a text are found, on our side as well.
        tokenizer = Tokenizer.from_file(p["pattern"])
    else:
        tokens, merges = gpt2()
        tokenizer = byte_level(models.BPE({t: i for i, t in enumerate(tokens)}, merges), p["expression"])
    if THREADS == 1:
        return about, lambda texts: [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return about, lambda texts: [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def with_sentencepiece(p):
    processor = sentencepiece.SentencePieceProcessor(model_file=p["pattern"])
    if THREADS == 1:
        return f"sentencepiece {sentencepiece.__version__}", lambda texts: [processor.encode(text) for text in texts]
    return f"sentencepiece {sentencepiece.__version__}", lambda texts: processor.encode(texts, num_threads=THREADS)


LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": 'Look around <here> & "there".',
        "parameters": {
            "type": "object",
            "properties": {
                "where": {"type": "string", "description": "a place, 東"},
                "n": {"type": "integer"},
                "deep": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["where"],
        },
    },
}
WAIT = {"type": "function", "function": {"name": "wait", "description": "Wait.", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = {"where": "東", "n": 2, "deep": [1.5, True, None]}
PLAIN = [
    {"role": "user", "content": "Hello, who are you?"},
    {"role": "assistant", "content": "A howdah \U0001f418, 子曰.\n"},
    {"role": "user", "content": "  Is that so?\n"},
]
SYSTEM = [{"role": "system", "content": "Be brief. "}, *PLAIN]
CALLED = [
    {"role": "user", "content": "Look."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdef123", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "name": "look", "tool_call_id": "abcdef123", "content": '{"found": "an elephant"}'},
    {"role": "assistant", "content": "  An elephant. "},
    {"role": "user", "content": "Thanks."},
]
THOUGHT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\neasy\n</think>\n\n4"},
    {"role": "user", "content": "And 3+3?"},
]


def templates(folder):
    """What transformers makes of conversations with each template of a folder; None where it refuses."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    out = []
    for path in sorted(Path(folder).glob("*.jinja")):
        for messages, tools in [(PLAIN, None), (SYSTEM, None), (SYSTEM, [LOOK, WAIT]), (CALLED, [LOOK, WAIT]), (THOUGHT, None)]:
            for prompt in [False, True]:
                case = {"file": path.name, "messages": messages, "tools": tools, "prompt": prompt}
                options = {"tools": tools, "add_generation_prompt": prompt, "tokenize": False}
                try:
                    # A copy: some templates change what they are given.
                    copy = json.loads(json.dumps(messages))
                    case["text"] = tokenizer.apply_chat_template(copy, chat_template=path.read_text(encoding="utf-8"), **options)
                except Exception as error:
                    case["text"], case["error"] = None, str(error)
                out.append(case)
    return out


def prepare(request):
    p = request["parameters"]
    if p["task"] == "templates":
        return "transformers", lambda: {"seconds": 0.0, "output": templates(p["file"])}
    texts = json.loads(Path(p["file"]).read_text(encoding="utf-8"))
    if p["task"] == "train":
        return f"tokenizers {tokenizers.__version__}", lambda: train(texts, p["pattern"], p["vocabulary"])
    made = {"tiktoken": with_tiktoken, "tokenizers": with_tokenizers, "sentencepiece": with_sentencepiece}
    about, encode = made[request["variant"]](p)

    def step():
        start = time.perf_counter()
        lists = encode(texts)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "output": each(lists) if p["task"] == "ids" else summary(lists)}

    return about, step


SPACE = "\u2581"
FIRST = ["<unk>", "<s>", "</s>"]
MASKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def trainable(kind, vocabulary):
    """A tokenizer without a vocabulary as ours of that kind is, and its trainer."""
    common = {"vocab_size": vocabulary, "show_progress": False}
    if kind == "bpe":
        return byte_level(models.BPE(), None), trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer, trainers.WordPieceTrainer(special_tokens=MASKS, **common)
    if kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        trainer = trainers.BpeTrainer(special_tokens=FIRST + [f"<0x{b:02X}>" for b in range(256)], **common)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        trainer = trainers.UnigramTrainer(special_tokens=FIRST, unk_token="<unk>", **common)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    return tokenizer, trainer


def train(texts, kind, vocabulary):
    tokenizer, trainer = trainable(kind, vocabulary)
    # SentencePiece's sentences are lines.
    given = [line for text in texts for line in text.split("\n") if line] if kind == "sentencepiece" else texts
    start = time.perf_counter()
    tokenizer.train_from_iterator(given, trainer)
    seconds = time.perf_counter() - start
    size = tokenizer.get_vocab_size()
    digest = hashlib.sha256()
    for i in range(size):
        digest.update((tokenizer.id_to_token(i) + "\n").encode())
    few = [text for _, text in zip(range(200), texts)]
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(few, add_special_tokens=False))
    return {"seconds": seconds, "output": {"size": size, "hash": digest.hexdigest()[:16], "tokens": tokens}}


serve(prepare)
