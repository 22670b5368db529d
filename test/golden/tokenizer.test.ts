import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  applyChatTemplate,
  ByteLevelTokenizer,
  type ChatMessage,
  checkTokenizerFile,
  DEFAULT_CHAT_TEMPLATE,
  encodeChat,
  loadTokenizer,
  trainByteLevel,
  trainByteLevelBpe,
} from "../../src/tokenizers/index.ts";

const golden = new URL("./tokenizers/", import.meta.url);
const read = (name: string): Promise<string> => readFile(new URL(name, golden), "utf8");
const readGz = async (name: string): Promise<string> =>
  gunzipSync(await readFile(new URL(name, golden))).toString("utf8");
const readText = (): Promise<string> => readFile(new URL("../../data/tinyshakespeare.txt", import.meta.url), "utf8");

interface Ids {
  readonly text: string;
  readonly ids: number[];
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-tokenizer-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** GPT-2's vocabulary: the 256 bytes in the order of their characters, each merge, the end of text. */
async function gpt2Folder(): Promise<string> {
  const merges = await readGz("gpt2-merges.txt.gz");
  const alphabet = trainByteLevelBpe([], { vocabulary: 256 });
  const bytes = Array.from({ length: 256 }, (_, id) => alphabet.idToToken(id)!);
  const made = merges
    .split("\n")
    .slice(1)
    .filter(Boolean)
    .map((merge) => merge.replace(" ", ""));
  const vocab = Object.fromEntries([...bytes, ...made, "<|endoftext|>"].map((token, id) => [token, id]));
  await writeFile(join(folder, "vocab.json"), JSON.stringify(vocab));
  await writeFile(join(folder, "merges.txt"), merges);
  return folder;
}

describe("GPT-2's vocabulary", () => {
  test("gives the ids of Hugging Face tokenizers, and the text back", async () => {
    const tokenizer = await loadTokenizer(await gpt2Folder());
    expect(tokenizer.vocabularySize).toBe(50257);
    expect(tokenizer.eosId).toBe(50256);
    for (const { text, ids } of JSON.parse(await read("gpt2-ids.json")) as Ids[]) {
      expect(tokenizer.encode(text, { allowedSpecial: "all" }), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });
});

test("GPT-2's vocabulary gives the ids of llama.cpp's own test vectors", async () => {
  const tokenizer = await loadTokenizer(await gpt2Folder());
  const texts = (await read("gpt2-llamacpp.inp")).split("\n__ggml_vocab_test__\n");
  const ids = (await read("gpt2-llamacpp.out")).split("\n");
  expect(texts.length).toBeGreaterThanOrEqual(46);
  texts.forEach((text, i) => {
    const expected = ids[i]!.split(" ").filter(Boolean).map(Number);
    expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(expected);
  });
});

describe("training", async () => {
  const cases = JSON.parse(await read("trained.json")) as {
    readonly name: string;
    readonly vocabulary: number;
    readonly pattern: string | null;
    readonly options: { readonly special_tokens?: string[]; readonly min_frequency?: number };
    readonly text: string[] | null;
    readonly ids: Ids[];
  }[];
  test.each(cases)("$name: the file is byte for byte what tokenizers writes", async (example) => {
    const { name, vocabulary, pattern, options, ids } = example;
    const tokenizer = trainByteLevelBpe(example.text ?? [await readText()], {
      vocabulary,
      ...(pattern === null ? {} : { pattern }),
      specialTokens: options.special_tokens ?? [],
      minFrequency: options.min_frequency ?? 0,
    });
    const out = join(folder, name);
    await tokenizer.save(out);
    expect(await readFile(join(out, "tokenizer.json"), "utf8")).toBe(await readGz(`trained-${name}.json.gz`));
    const loaded = await loadTokenizer(out);
    for (const { text, ids: expected } of ids) {
      expect(tokenizer.encode(text, { allowedSpecial: "all" }), JSON.stringify(text)).toEqual(expected);
      expect(loaded.encode(text, { allowedSpecial: "all" })).toEqual(expected);
      expect(tokenizer.decode(expected)).toBe(text);
    }
  });
});

describe("training in the native kernels", async () => {
  const cases = JSON.parse(await read("trained.json")) as {
    readonly name: string;
    readonly vocabulary: number;
    readonly pattern: string | null;
    readonly options: { readonly special_tokens?: string[]; readonly min_frequency?: number };
    readonly text: string[] | null;
  }[];
  test.each(cases)(
    "$name: the file is byte for byte what tokenizers writes",
    async ({ name, vocabulary, pattern, options, text }) => {
      const tokenizer = await trainByteLevel(text ?? [await readText()], {
        vocabulary,
        ...(pattern === null ? {} : { pattern }),
        specialTokens: options.special_tokens ?? [],
        minFrequency: options.min_frequency ?? 0,
      });
      const out = join(folder, `native ${name}`);
      await tokenizer.save(out);
      expect(await readFile(join(out, "tokenizer.json"), "utf8")).toBe(await readGz(`trained-${name}.json.gz`));
    },
  );
});

describe("the parts of tokenizer.json", async () => {
  const cases = JSON.parse(await readGz("parts.json.gz")) as {
    readonly name: string;
    readonly tokenizer: string;
    readonly ids: Ids[];
    readonly plain: Ids[];
  }[];
  test.each(cases)("$name: the ids are those of tokenizers, and writing gives the same file", async (example) => {
    const tokenizer = new ByteLevelTokenizer(checkTokenizerFile(JSON.parse(example.tokenizer), example.name));
    for (const { text, ids } of example.ids) {
      expect(tokenizer.encode(text, { allowedSpecial: "all" }), JSON.stringify(text)).toEqual(ids);
    }
    for (const { text, ids } of example.plain) {
      expect(tokenizer.encode(text, { allowedSpecial: "all", addSpecialTokens: false }), JSON.stringify(text)).toEqual(
        ids,
      );
    }
    const out = join(folder, `part ${example.name}`);
    await tokenizer.save(out);
    expect(await readFile(join(out, "tokenizer.json"), "utf8")).toBe(example.tokenizer);
  });
});

describe("llama2.c's tokenizer", () => {
  test("gives the ids of llama2.c's own algorithm, and the text back", async () => {
    const path = join(folder, "llama2c");
    await mkdir(path);
    await copyFile(new URL("tok512.bin", golden), join(path, "tokenizer.bin"));
    const tokenizer = await loadTokenizer(path);
    expect(tokenizer.vocabularySize).toBe(512);
    for (const { text, ids } of JSON.parse(await read("llama2c-ids.json")) as Ids[]) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text);
    }
  });
});

describe("chat templates", async () => {
  const { tokenizer: file, cases } = JSON.parse(await read("chat.json")) as {
    readonly tokenizer: unknown;
    readonly cases: {
      readonly name: string;
      readonly template: string;
      readonly messages: ChatMessage[];
      readonly tools: Record<string, unknown>[] | null;
      readonly prompt: boolean;
      readonly variables: { readonly assistant_name?: string };
      readonly text: string;
      readonly ids: number[];
      readonly mask: number[] | null;
    }[];
  };
  const tokenizer = new ByteLevelTokenizer(checkTokenizerFile(file, "chat.json"), {
    bos_token: "<|bos|>",
    eos_token: "<|end|>",
  });
  test.each(cases)("$name: the text, the ids and the mask are those of transformers", (example) => {
    const { template, messages } = example;
    const options = {
      addGenerationPrompt: example.prompt,
      ...(example.tools === null ? {} : { tools: example.tools }),
      ...(example.variables.assistant_name === undefined ? {} : { assistantName: example.variables.assistant_name }),
    };
    const text = applyChatTemplate(template, messages, { ...options, bosToken: "<|bos|>", eosToken: "<|end|>" });
    expect(text).toBe(example.text);
    const coded = encodeChat(tokenizer, messages, { ...options, template });
    expect(coded.ids).toEqual(example.ids);
    if (example.mask !== null) expect(coded.assistantMask).toEqual(example.mask);
  });
  test("our own template is among them", () => {
    expect(cases.filter((example) => example.template === DEFAULT_CHAT_TEMPLATE).length).toBeGreaterThanOrEqual(5);
  });
});
