import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../src/tensor/errors.ts";
import { loadTokenizer } from "../../src/tokenizers/index.ts";

let root: string;
let serial = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "howdah-broken-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** Writes files into a new folder, reads the tokenizer `name` there, and gives the message it is refused with. */
async function refusal(files: Record<string, string | Uint8Array>, name = Object.keys(files)[0]!): Promise<string> {
  const folder = join(root, String(serial++));
  for (const [file, data] of Object.entries(files)) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), data);
  }
  const error: unknown = await loadTokenizer(join(folder, name)).then(
    () => new Error("it was read"),
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(InputError);
  const { message } = error as InputError;
  // The whole path is there; what comes after it is looked at.
  expect(message).toContain(folder);
  return message.replaceAll(`${folder}/`, "");
}

const names = ["tokenizer.json", "a.model", "vocab.txt", "gpt2.tiktoken", "a.gguf", "tokenizer.bin"];

describe("another file in the place of a tokenizer's", () => {
  test("is recognised for every kind: a Git LFS pointer, a web page, an archive, nothing", async () => {
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 499723\n`;
    for (const name of names) {
      expect(await refusal({ [name]: pointer })).toContain(`${name}: it is a Git LFS pointer`);
      expect(await refusal({ [name]: "\n <!DOCTYPE html>\n<html><body>Sign in" })).toContain(
        `${name}: it is a web page`,
      );
      expect(await refusal({ [name]: Buffer.from("1f8b0800000000000003", "hex") })).toContain("it is compressed");
      expect(await refusal({ [name]: "" })).toContain(`${name}: it is empty`);
    }
    expect(await refusal({ "vocab.json": pointer, "merges.txt": "" }, ".")).toContain(
      "vocab.json: it is a Git LFS pointer",
    );
    expect(await refusal({ "vocab.json": '{"a":0}', "merges.txt": pointer }, ".")).toContain(
      "merges.txt: it is a Git LFS",
    );
    expect(await refusal({ "vocab.txt": "a", "tokenizer_config.json": pointer }, ".")).toContain(
      "tokenizer_config.json: it is a Git LFS pointer",
    );
  });

  test("is refused where its bytes are no text, or no GGUF", async () => {
    const noise = Uint8Array.from({ length: 999 }, (_, i) => (i * 7919 + (i >> 3)) & 0xff);
    for (const name of names) await refusal({ [name]: noise });
    expect(await refusal({ "vocab.txt": Buffer.from("a\nb\n\xff\n", "latin1") })).toContain("vocab.txt:3: not UTF-8");
    expect(await refusal({ "vocab.txt": Buffer.from("\ufeffa\nb", "utf16le") })).toContain("in UTF-16");
    expect(await refusal({ "a.gguf": "GGMLabcdefgh" })).toContain('begins with "GGML", where "GGUF" is expected');
  });
});

describe("vocab.json and merges.txt", () => {
  const refused = (vocab: string, merges = "#version: 0.2\n") =>
    refusal({ "vocab.json": vocab, "merges.txt": merges }, ".");

  test("are refused with the file, the token and what was expected", async () => {
    expect(await refused('{"a": 0,')).toContain("vocab.json: not valid JSON");
    expect(await refused("[]")).toContain("vocab.json: expected an object of token: id, and found []");
    expect(await refused("{}")).toContain("vocab.json: the vocabulary is empty");
    expect(await refused('{"a": "1"}')).toContain(
      'the id of "a": expected a whole number from 0 to 16777215, and found "1"',
    );
    expect(await refused('{"a": -1}')).toContain(
      'the id of "a": expected a whole number from 0 to 16777215, and found -1',
    );
    expect(await refused('{"a": 4e9}')).toContain("and found 4000000000");
    expect(await refused('{"a": 0, "b": 0}')).toContain('"a" and "b" both have the id 0');
  });

  test("with merges that do not fit say which line", async () => {
    const vocab = '{"a": 0, "b": 1, "ab": 2, "abb": 3}';
    expect(await refused(vocab, "#version: 0.2\na\n")).toContain(
      'merges.txt:2: expected two tokens with one space between them, and found "a"',
    );
    expect(await refused(vocab, "a b\r\na b b\r\n")).toContain("merges.txt:2: expected two tokens");
    expect(await refused(vocab, "a b\nb a\n")).toContain('merges.txt:2: "ba" is not in the vocabulary');
    expect(await refused(vocab, "a constructor\n")).toContain('merges.txt:1: "constructor" is not in the vocabulary');
  });

  test("are read with Windows' line ends, a byte order mark, no first line of a version, and ids that no token has", async () => {
    const folder = join(root, "windows");
    await mkdir(folder);
    await writeFile(join(folder, "vocab.json"), '\ufeff{"a": 0, "b": 1, "ab": 5}');
    for (const merges of ["\ufeff#version: 0.2\r\na b\r\n", "a b", "a b\r\n"]) {
      await writeFile(join(folder, "merges.txt"), merges);
      const tokenizer = await loadTokenizer(folder);
      expect(tokenizer.encode("ab")).toEqual([5]);
      expect(() => tokenizer.decode([3])).toThrow(InputError);
    }
  });

  test("one without the other says which is missing", async () => {
    expect(await refusal({ "vocab.json": "{}" }, ".")).toContain("merges.txt, which belongs to it, is not");
    expect(await refusal({ "vocab.json": '{"a": 0}' })).toContain("vocab.json: only a vocabulary");
    expect(await refusal({ "merges.txt": "a b" })).toContain("merges.txt: only half of a tokenizer");
  });
});

describe("tokenizer.json", () => {
  const json = (model: unknown, more: Record<string, unknown> = {}) =>
    refusal({ "tokenizer.json": JSON.stringify({ model, ...more }) });

  test("is refused with the field, the value and what was expected", async () => {
    expect(await refusal({ "tokenizer.json": '{"model": {"type": "BPE", "voc' })).toContain(
      "tokenizer.json: not valid JSON",
    );
    expect(await refusal({ "tokenizer.json": "[1]" })).toContain(
      "tokenizer.json: expected a JSON object, and found [1]",
    );
    expect(await json({ type: "BPE", vocab: { a: 0, b: "x" }, merges: [] })).toContain(
      'model.vocab: the id of "b": expected a whole number from 0 to 16777215, and found "x"',
    );
    expect(await json({ type: "BPE", vocab: { a: 0 }, merges: ["a a", "a"] })).toContain(
      'model.merges: expected "left right" or [left, right] at 1, and found "a"',
    );
    expect(await json({ type: "Unigram", unk_id: 0, vocab: [["a", 0], ["b"]] })).toContain(
      'model.vocab: expected [piece, score] at 1, and found ["b"]',
    );
    expect(await json({ type: "WordPiece", vocab: [] })).toContain(
      "model.vocab: expected an object of token: id, and found []",
    );
  });

  test("names its file where its parts do not fit together", async () => {
    expect(await json({ type: "BPE", vocab: { a: 0 }, merges: [["a", "a"]] })).toContain('needs "aa"');
  });
});

describe("a file of ranks", () => {
  test("is refused with the line and what stands in it", async () => {
    for (const line of ["I!Q= 0", "IQ= 0", "IQ==", "IQ== x", "IQ== 1 2", "IQ== -1", "IQ== 99999999999"]) {
      expect(await refusal({ "gpt2.tiktoken": `IQ== 5\n${line}\n` })).toContain(
        `gpt2.tiktoken:2: expected a token in base64, a space and its rank, and found ${JSON.stringify(line)}`,
      );
    }
  });
});

describe("a SentencePiece file", () => {
  const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]);
  const field = (number: number, data: Uint8Array) => [...varint(number * 8 + 2), ...varint(data.length), ...data];
  const piece = (text: string, score: number, type: number) =>
    field(
      1,
      Uint8Array.from([
        ...field(1, Buffer.from(text)),
        ...[2 * 8 + 5, ...new Uint8Array(Float32Array.of(score).buffer)],
        ...[3 * 8, ...varint(type)],
      ]),
    );
  const model = (...parts: number[][]) => refusal({ "a.model": Uint8Array.from(parts.flat()) });
  const unknown = piece("<unk>", 0, 2);

  test("is refused with the piece that is wrong", async () => {
    expect(await model(unknown, piece("a", 0, 7))).toContain('piece 1, "a", has the unknown type 7');
    expect(await model(unknown, piece("", 0, 1))).toContain('piece 1, "", has no text');
    expect(await model(unknown, piece("a", 0, 1), piece("a", 1, 1))).toContain('piece 2, "a", is piece 1 already');
    expect(await model(unknown, piece("a", Number.NaN, 1))).toContain("has a score that is no number");
    expect(await model(piece("a", 0, 1))).toContain("has no unknown piece");
    expect(await model(unknown, piece("<0x41>", 0, 6))).toContain("not all of <0x00> to <0xFF>");
  });
});
