import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../src/tensor/errors.ts";
import { BYTE_TO_CHARACTER } from "../../src/tokenizers/bytes.ts";
import { loadTokenizer, type Tokenizer } from "../../src/tokenizers/index.ts";
import { gguf } from "../helpers/gguf.ts";

let folder: string;
let serial = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-gguf-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

type Fields = Parameters<typeof gguf>[0];
async function read(fields: Fields): Promise<Tokenizer> {
  const path = join(folder, `${serial++}.gguf`);
  const named = Object.entries(fields).map(([key, value]) => [
    key.includes(".") ? key : `tokenizer.ggml.${key}`,
    value,
  ]);
  await writeFile(path, gguf(Object.fromEntries(named) as Fields));
  return loadTokenizer(path);
}

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER = 4;
const UNUSED = 5;
const BYTE = 6;
const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
const byteTypes = new Array<number>(256).fill(BYTE);

describe("byte-level BPE", () => {
  const base = {
    model: "gpt2",
    pre: "gpt-2",
    tokens: [...BYTE_TO_CHARACTER, "ab", "12", "123", "<end>", "<tool>"],
    token_type: [...new Array<number>(259).fill(NORMAL), CONTROL, USER],
    merges: ["a b", "1 2", "12 3"],
  };
  const [ab, oneTwoThree, end, tool] = [256, 258, 259, 260];

  test("cuts as the file's pre says", async () => {
    const ids = async (pre: string, text: string) => (await read({ ...base, pre, add_bos_token: false })).encode(text);
    expect(await ids("gpt-2", "123")).toEqual([oneTwoThree]);
    expect(await ids("starcoder", "123")).toEqual([..."123"].map((c) => c.charCodeAt(0)).map((c) => idOfByte(c)));
    expect(await ids("llama-bpe", "1231")).toEqual([oneTwoThree, idOfByte(0x31)]);
    // Without merges of "abab", only a way of cutting can part it: none does.
    for (const pre of ["falcon", "tekken", "gpt-4o", "deepseek-v3", "qwen2", "bloom", "superbpe", "jais-2", "minicpm5"])
      expect(await ids(pre, "abab")).toEqual([ab, ab]);
  });
  const idOfByte = (byte: number) => BYTE_TO_CHARACTER.indexOf(BYTE_TO_CHARACTER[byte]!);

  test("finds user-defined tokens always, and control tokens only where they are allowed", async () => {
    const tokenizer = await read(base);
    expect(tokenizer.encode("ab<tool>ab")).toEqual([ab, tool, ab]);
    expect(tokenizer.encode("<end>")).not.toContain(end);
    expect(tokenizer.encode("ab<end>", { allowedSpecial: "all" })).toEqual([ab, end]);
    expect(tokenizer.decode([ab, end], { skipSpecialTokens: true })).toBe("ab");
  });

  test("adds a beginning and an end where the file says so, or its pre", async () => {
    const ids = { bos_token_id: end, eos_token_id: end };
    expect((await read({ ...base, ...ids })).encode("ab")).toEqual([ab]);
    expect((await read({ ...base, ...ids, add_bos_token: true, add_eos_token: true })).encode("ab")).toEqual([
      end,
      ab,
      end,
    ]);
    expect((await read({ ...base, ...ids, pre: "llama-bpe" })).encode("ab")).toEqual([end, ab]);
    expect((await read({ ...base, ...ids, pre: "llama-bpe", add_bos_token: false })).encode("ab")).toEqual([ab]);
    await expect(read({ ...base, add_bos_token: true })).rejects.toThrow("there is no bos_token_id");
  });

  test("keeps the chat template", async () => {
    const tokenizer = await read({ ...base, "tokenizer.chat_template": "{{ messages }}", eos_token_id: end });
    expect(tokenizer.chatTemplate).toBe("{{ messages }}");
    expect(tokenizer.eosId).toBe(end);
  });

  test("is refused with the field and the value where something does not fit", async () => {
    const refused = async (fields: Partial<Fields>, message: string) => {
      const error: unknown = await read({ ...base, ...fields } as Fields).catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(InputError);
      expect((error as InputError).message).toContain(folder);
      expect((error as InputError).message).toContain(message);
    };
    const { merges: _, ...bare } = base;
    await expect(read(bare)).rejects.toThrow("tokenizer.ggml.merges of this GGUF file is missing");
    await refused({ merges: ["a b", "ab"] }, 'tokenizer.ggml.merges of this GGUF file has "ab" at 1');
    await refused({ merges: ["b a"] }, '"b" + "a" needs "ba", which is not in the vocabulary');
    await refused({ tokens: [...base.tokens.slice(0, -1), "ab"] }, 'has "ab" twice, as 256 and as 260');
    await refused({ token_type: [1, 1] }, "has 2 entries for 261 tokens");
    await refused({ token_type: [...base.token_type.slice(1), 9] }, "has the unknown type 9 at 260");
    await refused({ bos_token_id: 9999 }, "bos_token_id of this GGUF file is 9999, which is none of the 261 tokens");
    await refused({ tokens: "all" }, 'tokenizer.ggml.tokens of this GGUF file is "all", where an array is expected');
    await refused({ add_bos_token: "yes" }, 'is "yes", where true or false is expected');
    for (const model of ["rwkv", "plamo2", "hybriddna", "whitespace", "something"])
      await refused({ model }, `the tokenizer "${model}" of this GGUF file is not supported`);
    for (const pre of ["kimi-k2", "tiny_aya", "afmoe", "youtu", "constructor"])
      await refused({ pre }, `is "${pre}", a way`);
    for (const model of ["none", "no_vocab"]) await refused({ model }, "there is no tokenizer in this GGUF file");
  });
});

describe("SentencePiece", () => {
  const words = ["\u2581", "a", "b", "ab", "\u2581ab", "<tool>", "<pad>"];
  const first = 259;
  const base = {
    model: "llama",
    tokens: ["<unk>", "<s>", "</s>", ...bytes, ...words],
    scores: [0, 0, 0, ...bytes.map(() => 0), -9, -9, -9, -1, -2, 0, -1000],
    token_type: [UNKNOWN, CONTROL, CONTROL, ...byteTypes, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, USER, UNUSED],
    bos_token_id: 1,
    eos_token_id: 2,
  };
  const [space, a, , ab, spaceAb, tool] = words.map((_, i) => first + i);

  test("puts a space in front of each part between tokens, and reads a vocabulary that was filled up with unused ones", async () => {
    const tokenizer = await read(base);
    expect(tokenizer.encode("ab")).toEqual([1, spaceAb]);
    expect(tokenizer.encode("ab<tool>ab")).toEqual([1, spaceAb, tool, spaceAb]);
    expect(tokenizer.encode("ab</s>ab", { allowedSpecial: "all" })).toEqual([1, spaceAb, 2, spaceAb]);
    expect(tokenizer.encode("")).toEqual([1]);
    const plain = await read({ ...base, add_space_prefix: false, add_bos_token: false, add_eos_token: true });
    expect(plain.encode("ab<tool>ab a")).toEqual([ab, tool, ab, space, a, 2]);
  });

  test("lets phi-3's tokens take the white space after them", async () => {
    const tokenizer = await read({ ...base, "general.name": "Phi-3 mini", add_bos_token: false });
    expect(tokenizer.encode("<tool> \n ab")).toEqual([tool, spaceAb]);
  });

  test("needs scores and types", async () => {
    const { scores: _, ...unscored } = base;
    await expect(read(unscored)).rejects.toThrow("tokenizer.ggml.scores of this GGUF file is missing");
    const { token_type: __, ...untyped } = base;
    await expect(read(untyped)).rejects.toThrow("tokenizer.ggml.token_type of this GGUF file is missing");
    await expect(read({ ...base, scores: [1] })).rejects.toThrow("has 1 entries for 266 tokens");
  });

  test("of kind t5 is Unigram, with an end", async () => {
    const tokens = ["<pad>", "</s>", "<unk>", "\u2581", "a", "b", "\u2581ab"];
    const tokenizer = await read({
      model: "t5",
      tokens,
      scores: [0, 0, 0, -5, -5, -5, -6],
      token_type: [CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, NORMAL, NORMAL],
      add_space_prefix: true,
      remove_extra_whitespaces: true,
    });
    expect(tokenizer.encode("  ab  b ")).toEqual([6, 3, 5, 1]);
    expect(tokenizer.encode("xyz")).toEqual([3, 2, 1]);
  });
});

test("WordPiece has \u2581 before what begins a word", async () => {
  const tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581fox", "es", "\u2581\u72d0", "\u2581e"];
  const base = {
    model: "bert",
    tokens,
    token_type: [CONTROL, CONTROL, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL, NORMAL],
    unknown_token_id: 1,
    cls_token_id: 2,
    seperator_token_id: 3,
  };
  const tokenizer = await read(base);
  expect(tokenizer.encode("Foxes \u72d0\u00e9 es")).toEqual([2, 4, 5, 6, 7, 1, 3]);
  const cased = await read({ ...base, "tokenizer.ggml.normalizer.lowercase": false });
  expect(cased.encode("Foxes foxes", { addSpecialTokens: false })).toEqual([1, 4, 5]);
});

test("gemma4 is BPE on characters, with bytes for what is in no token, and runs of line feeds apart", async () => {
  const tokens = ["<bos>", ...bytes, "\u2581", "a", "b", "\u2581a", "\n", "\n\n"];
  const fields = {
    model: "gemma4",
    tokens,
    token_type: [CONTROL, ...byteTypes, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL],
    merges: ["\u2581 a", "\n \n"],
    bos_token_id: 0,
    add_bos_token: false,
  };
  const tokenizer = await read(fields);
  const id = (token: string) => tokens.indexOf(token);
  expect(tokenizer.encode("b a\n\nc")).toEqual([0, id("b"), id("\u2581a"), id("\n\n"), id("<0x63>")]);
  expect(tokenizer.decode(tokenizer.encode("b a\n\n\u00e9"), { skipSpecialTokens: true })).toBe("b a\n\n\u00e9");
  await expect(read({ ...fields, tokens: tokens.map((token) => (token === "<0x63>" ? "c" : token)) })).rejects.toThrow(
    "lacks <0x63>",
  );
});
