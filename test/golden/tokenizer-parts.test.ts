import { mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { type Case, compareCase, readCase } from "../../bench/tokenizer-cases.ts";
import { loadTokenizer, tokenizerFromJson } from "../../src/tokenizers/index.ts";

const cases = gunzipSync(await readFile(new URL("./tokenizers/fuzz.jsonl.gz", import.meta.url)))
  .toString("utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line) as Case);

describe("random tokenizer.json files", () => {
  test.each(cases)("$seed/$number: everything is that of tokenizers, and a stream gives the whole text", (one) => {
    const tokenizer = readCase(one);
    if (typeof tokenizer === "string") throw new Error(tokenizer);
    const { same, differences } = compareCase(one, tokenizer);
    expect(differences).toEqual([]);
    expect(same).toBeGreaterThan(0);
  });
});

const words = { type: "WordLevel", vocab: { "<unk>": 0, a: 1, b: 5 }, unk_token: "<unk>" };
const added = (id: number, content: string, normalized = false) => ({ id, content, normalized });

describe("what tokenizers would read otherwise is refused", () => {
  test.each<[string, object, string]>([
    [
      "an id that is not the next one",
      { added_tokens: [added(9, "X")] },
      '"X" has the id 9, where the next free one is 3',
    ],
    ["an id that the vocabulary says otherwise", { added_tokens: [added(0, "a")] }, "the vocabulary says 1"],
    [
      "tokens that are spelled the same",
      { normalizer: { type: "Lowercase" }, added_tokens: [added(3, "X", true), added(4, "x", true)] },
      'the same of "X" and "x"',
    ],
    [
      "a token that is nothing",
      { normalizer: { type: "Replace", pattern: { String: "X" }, content: "" }, added_tokens: [added(3, "X", true)] },
      'makes nothing of "X"',
    ],
    [
      "a prefix space that is and is not",
      { pre_tokenizer: { type: "Metaspace", add_prefix_space: false, prepend_scheme: "always" } },
      "says otherwise than prepend_scheme",
    ],
  ])("%s", (_, parts, message) => {
    expect(() => tokenizerFromJson({ model: words, ...parts }, "file")).toThrow(message);
  });

  test("a truncation that leaves no room", () => {
    const sep: [string, number] = ["b", 5];
    const tokenizer = tokenizerFromJson(
      {
        model: words,
        truncation: { max_length: 1, strategy: "LongestFirst", stride: 0 },
        post_processor: { type: "BertProcessing", sep, cls: sep },
      },
      "file",
    );
    expect(() => tokenizer.encode("a")).toThrow("max_length is 1, and the post-processor alone adds 2 tokens");
  });
});

test.each(["tokenizer.json", "tokenizer.model", "gpt2.tiktoken", "vocab.txt"])(
  "a sparse %s of 2 GB is refused at once",
  async (name) => {
    const folder = await mkdtemp(join(tmpdir(), "howdah-sparse-"));
    try {
      const path = join(folder, name);
      await writeFile(path, "");
      await truncate(path, 2 ** 31);
      await expect(loadTokenizer(path)).rejects.toThrow(
        `${path}: 2147483648 bytes, where a tokenizer's file has at most`,
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  },
);
