import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../src/tensor/errors.ts";
import { tokenBytes } from "../../src/tokenizers/bytes.ts";
import { loadTokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { gguf } from "../helpers/gguf.ts";

const corpus =
  "The quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸。 It's the fox's fox, isn't it? 12345 ".repeat(30);
const trained = trainByteLevelBpe([corpus], { vocabulary: 400 });
const tokens = Array.from({ length: trained.vocabularySize }, (_, id) => trained.idToToken(id)!);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-formats-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("tiktoken's files of ranks", () => {
  const ranks = tokens.map((token, id) => `${Buffer.from(tokenBytes(token)!).toString("base64")} ${id}`).join("\n");

  test("merge at the rank of what they make, whole pieces first; native and by the definition", async () => {
    const path = join(folder, "cl100k_base.tiktoken");
    await writeFile(path, `${ranks}\n`);
    const tokenizer = await loadTokenizer(path);
    const rankOf = new Map(tokens.map((token, id) => [Buffer.from(tokenBytes(token)!).toString("latin1"), id]));
    const defined = (piece: string): number[] => {
      const bytes = Buffer.from(piece).toString("latin1");
      const whole = rankOf.get(bytes);
      if (whole !== undefined) return [whole];
      let parts = [...bytes];
      for (;;) {
        const pairs = parts.slice(1).map((right, i) => rankOf.get(parts[i]! + right) ?? Number.POSITIVE_INFINITY);
        const best = Math.min(...pairs);
        if (!Number.isFinite(best)) return parts.map((part) => rankOf.get(part)!);
        const at = pairs.indexOf(best);
        parts = [...parts.slice(0, at), parts[at]! + parts[at + 1]!, ...parts.slice(at + 2)];
      }
    };
    const word = fc
      .array(fc.constantFrom(..."thequickbrownfoxé狐狸"), { minLength: 1, maxLength: 60 })
      .map((a) => a.join(""));
    fc.assert(
      fc.property(word, (text) => {
        expect(tokenizer.encode(text)).toEqual(defined(text));
        const long = text.repeat(5);
        expect(tokenizer.encode(long)).toEqual(defined(long));
      }),
      { numRuns: 100 },
    );
    expect(tokenizer.tokenId("<|endoftext|>")).toBe(100257);
    const text = "It's 12345678 words, \n\n  isn't IT? \n";
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });

  test("are refused where the name says no encoding, a line is no rank, or a byte is missing", async () => {
    const file = async (name: string, text: string) => {
      await writeFile(join(folder, name), text);
      return loadTokenizer(join(folder, name));
    };
    await expect(file("mine.tiktoken", ranks)).rejects.toThrow("does not say how text is cut");
    await expect(file("gpt2.tiktoken", "IQ== zero")).rejects.toThrow("gpt2.tiktoken:1");
    await expect(file("gpt2.tiktoken", "IQ== 0")).rejects.toThrow("has no rank");
    await expect(file("gpt2.tiktoken", "\n")).rejects.toThrow("gpt2.tiktoken: it is empty");
    await expect(file("gpt2.tiktoken", "IQ== 0\nIg== 0")).rejects.toThrow(
      "gpt2.tiktoken:2: this rank stands in line 1",
    );
    await expect(file("gpt2.tiktoken", "IQ== 0\nIQ== 1")).rejects.toThrow(
      "gpt2.tiktoken:2: this token stands in line 1",
    );
  });
});

describe("the tokenizer inside a GGUF file", () => {
  const merges = tokens
    .slice(256)
    .map((token) => {
      for (let at = 1; at < token.length; at++) {
        if (tokens.includes(token.slice(0, at)) && tokens.includes(token.slice(at)))
          return `${token.slice(0, at)} ${token.slice(at)}`;
      }
      return "";
    })
    .filter(Boolean);
  const bpe = {
    "general.architecture": "gpt2",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.merges": merges,
  };

  test("of byte-level BPE encodes and decodes", async () => {
    const path = join(folder, "bpe.gguf");
    await writeFile(path, gguf(bpe));
    const tokenizer = await loadTokenizer(path);
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.replace(/\p{Surrogate}/gu, "\ufffd"));
      }),
    );
  });

  test("of SentencePiece BPE puts a space and the beginning token in front", async () => {
    const pieces = [
      "<unk>",
      "<s>",
      "</s>",
      ...Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`),
    ];
    const words = ["\u2581", "f", "o", "x", "fo", "fox", "\u2581fox"];
    const path = join(folder, "spm.gguf");
    await writeFile(
      path,
      gguf({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [...pieces, ...words],
        "tokenizer.ggml.scores": [...pieces, ...words].map((_, i) => -i),
        "tokenizer.ggml.token_type": [2, 3, 3, ...new Array<number>(256).fill(6), ...words.map(() => 1)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
      }),
    );
    const tokenizer = await loadTokenizer(path);
    expect(tokenizer.encode("fox é")).toEqual([1, 265, 259, 3 + 0xc3, 3 + 0xa9]);
    expect(tokenizer.decode([1, 265, 259, 3 + 0xc3, 3 + 0xa9], { skipSpecialTokens: true })).toBe("fox é");
    const stream = tokenizer.stream();
    expect([265, 3 + 0xc3, 3 + 0xa9].map((id) => stream.push(id))).toEqual(["fox", "", "é"]);
  });

  test("is refused by name where it, or its way of cutting, is not known", async () => {
    const path = join(folder, "other.gguf");
    await writeFile(path, gguf({ ...bpe, "tokenizer.ggml.pre": "kimi-k2" }));
    await expect(loadTokenizer(path)).rejects.toThrow('"kimi-k2"');
    await writeFile(path, gguf({ ...bpe, "tokenizer.ggml.model": "rwkv" }));
    await expect(loadTokenizer(path)).rejects.toThrow('"rwkv"');
    await writeFile(path, gguf(bpe).subarray(0, 500));
    await expect(loadTokenizer(path)).rejects.toThrow("ends in the middle");
    await writeFile(path, "GGML");
    await expect(loadTokenizer(path)).rejects.toThrow(InputError);
  });
});

test("BERT's vocab.txt is read with the options beside it", async () => {
  const vocabulary = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "fox",
    "##es",
    "狐",
    "狸",
    "The",
    "cafe",
    "!",
  ];
  await writeFile(join(folder, "vocab.txt"), `${vocabulary.join("\n")}\n`);
  const words = (ids: number[]) => ids.map((id) => vocabulary[id]);
  const uncased = await loadTokenizer(join(folder, "vocab.txt"));
  expect(words(uncased.encode("The foxes! 狐狸 Café wolf"))).toEqual([
    "[CLS]",
    "the",
    "fox",
    "##es",
    "!",
    "狐",
    "狸",
    "cafe",
    "[UNK]",
    "[SEP]",
  ]);
  expect(uncased.decode(uncased.encode("The foxes!"), { skipSpecialTokens: true })).toBe("the foxes!");
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ do_lower_case: false }));
  const cased = await loadTokenizer(join(folder, "vocab.txt"));
  expect(words(cased.encode("The", { addSpecialTokens: false }))).toEqual(["The"]);
  await rm(join(folder, "tokenizer_config.json"));
  await writeFile(join(folder, "vocab.txt"), "the\n");
  await expect(loadTokenizer(join(folder, "vocab.txt"))).rejects.toThrow("Is it the vocabulary of a BERT model?");
});

test("a SentencePiece file that is none, or cut short, is refused", async () => {
  const path = join(folder, "broken.model");
  for (const bytes of [Buffer.from("hello"), Buffer.of(0x0a, 0x7f, 0x01), Buffer.alloc(0)]) {
    await writeFile(path, bytes);
    await expect(loadTokenizer(path)).rejects.toThrow(InputError);
  }
});
