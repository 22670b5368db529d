import { mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  bucketBatches,
  bucketLengths,
  byteLength,
  encodeDocuments,
  evaluationWindows,
  firstInvalidUtf8,
  holdOut,
  packExamples,
  padExamples,
  RandomWindows,
  readConversations,
  readPreferences,
  readText,
  type SequenceBatch,
  shuffled,
  TokenFile,
  tokensOf,
  uniform,
  windowsAt,
  writeTokens,
} from "../../src/data/index.ts";
import { InputError } from "../../src/tensor/errors.ts";
import { CHAT_SPECIAL_TOKENS, CHAT_TOKENIZER_CONFIG, trainByteLevelBpe } from "../../src/tokenizers/index.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-data-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const file = async (name: string, content: string | Uint8Array): Promise<string> => {
  const path = join(folder, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, content);
  return path;
};

describe("reading text", () => {
  test("a folder is read whole, sorted, without hidden files, each file once in spite of links in circles", async () => {
    await file("book/b.txt", "second");
    await file("book/a/deep.md", "first\r\nline");
    await file("book/c.json", "{}");
    await file("book/.hidden/x.txt", "no");
    await symlink(join(folder, "book"), join(folder, "book", "loop"));
    await symlink(join(folder, "book", "b.txt"), join(folder, "book", "again.txt"));
    await symlink(join(folder, "nowhere"), join(folder, "book", "broken.txt"));
    const documents = await readText(join(folder, "book"));
    expect(documents.map(({ text }) => text).sort()).toEqual(["first\nline", "second"]);
    expect(documents.map(({ source }) => source)).toEqual(documents.map(({ source }) => source).sort());
    expect(documents.map(({ source }) => source)).toContain("a/deep.md");
  });

  test("a folder may hold pages beside texts, and a broken document is named", async () => {
    await mkdir(join(folder, "mixed"));
    await writeFile(join(folder, "mixed", "a.txt"), "plain text");
    const page =
      "<html><body><article><h1>Tides</h1><p>The sea rises and falls twice a day because the moon pulls at it, and people have known this for long.</p></article></body></html>";
    await writeFile(join(folder, "mixed", "b.html"), page);
    const documents = await readText(join(folder, "mixed"));
    expect(documents.map((d) => d.source)).toEqual(["a.txt", "b.html"]);
    expect(documents[1]!.text).toContain("The sea rises and falls twice a day");
    await writeFile(join(folder, "mixed", "c.pdf"), "no pdf at all");
    await expect(readText(join(folder, "mixed"))).rejects.toThrow(/c\.pdf/);
  });

  test("a byte order mark is not part of the text", async () => {
    expect((await readText(await file("bom.txt", "\ufeffhello")))[0]!.text).toBe("hello");
  });

  test.each([
    ["latin1.txt", Uint8Array.from([0x61, 0x62, 0xe9, 0x63]), "byte 2 (0xe9)"],
    ["cut.txt", Uint8Array.from([0x61, 0xe4, 0xb8]), "byte 1 (0xe4)"],
    ["binary.txt", Uint8Array.from([0x61, 0x00, 0x62]), "byte 1 is zero"],
    ["utf16.txt", Uint8Array.from([0xff, 0xfe, 0x61, 0x00]), "UTF-16"],
    ["empty.txt", new Uint8Array(0), "empty"],
    ["blank.txt", Buffer.from(" \n\n "), "white space"],
  ])("%s is refused, saying where and why", async (name, bytes, message) => {
    const path = await file(name, bytes);
    await expect(readText(path)).rejects.toThrow(InputError);
    await expect(readText(path)).rejects.toThrow(message);
    await expect(readText(path)).rejects.toThrow(name);
  });

  test("nothing there, nothing to read and too little to read are said apart", async () => {
    await expect(readText(join(folder, "gone"))).rejects.toThrow("no such file");
    await mkdir(join(folder, "bare"));
    await expect(readText(join(folder, "bare"))).rejects.toThrow("no text here");
    await expect(readText(await file("short.txt", "é"), { minimumBytes: 10 })).rejects.toThrow(
      "2 bytes of text are too few",
    );
  });

  test("the first invalid byte is where decoding strictly fails", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.uint8Array({ maxLength: 3 }),
            fc.string({ unit: "binary", maxLength: 3 }).map((s) => Buffer.from(s)),
          ),
        ),
        (parts) => {
          const bytes = Buffer.concat(parts);
          const at = firstInvalidUtf8(bytes);
          const strict = new TextDecoder("utf-8", { fatal: true });
          if (at === -1) strict.decode(bytes);
          else {
            strict.decode(bytes.subarray(0, at));
            // No continuation makes a character of what starts there.
            expect(bytes.subarray(at).toString("utf8")).toMatch(/^\ufffd/);
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe("holding out", () => {
  test("nothing is lost, nothing is in both parts, and the cut is near the fraction", () => {
    const paragraph = fc.string({ unit: "grapheme", minLength: 1, maxLength: 60 }).filter((text) => text.trim() !== "");
    const document = fc.array(paragraph, { minLength: 20, maxLength: 60 }).map((parts) => parts.join("\n\n"));
    fc.assert(
      fc.property(
        fc.array(document, { minLength: 1, maxLength: 4 }),
        fc.constantFrom(0.1, 0.25, 0.5),
        (texts, fraction) => {
          const documents = texts.map((text, i) => ({ source: `${i}`, text }));
          const { train, heldOut } = holdOut(documents, fraction);
          const all = [...train, ...heldOut];
          for (const { source, text } of documents) {
            const parts = all.filter((part) => part.source === source).map((part) => part.text);
            expect(parts.join("").replace(/\s/g, "")).toBe(text.replace(/\s/g, ""));
          }
          const bytes = (parts: readonly { text: string }[]): number =>
            parts.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
          expect(Math.abs(bytes(heldOut) / bytes(all) - fraction)).toBeLessThan(0.1);
        },
      ),
      { numRuns: 100 },
    );
  });

  test("the cut is at a paragraph's end, else a line's, else a space, else a character", () => {
    const last = (text: string): string => holdOut([{ source: "x", text }], 0.1).heldOut[0]!.text;
    expect(last(`${"line\n".repeat(178)}\n${"last\n".repeat(21)}`)).toBe("last\n".repeat(21));
    expect(last("12345678\n".repeat(100))).toBe("12345678\n".repeat(10));
    expect(last("1234567 ".repeat(100)).startsWith("1234567")).toBe(true);
    expect(last("🐘".repeat(100))).toBe("🐘".repeat(10));
  });

  test("too little text, and a fraction that leaves nothing, are errors", () => {
    expect(() => holdOut([{ source: "x", text: "a" }], 0.1)).toThrow("too few");
    expect(() => holdOut([{ source: "x", text: "abc" }], 1)).toThrow("not between");
    expect(() => holdOut([], 0.1)).toThrow(InputError);
  });
});

describe("token files", () => {
  test("documents begin with the beginning token, and cannot smuggle one in", () => {
    const tokenizer = trainByteLevelBpe(["ab"], {
      vocabulary: 300,
      specialTokens: CHAT_SPECIAL_TOKENS,
      config: CHAT_TOKENIZER_CONFIG,
    });
    const documents = [
      { source: "1", text: "ab é" },
      { source: "2", text: "<|bos|>" },
    ];
    const [first, second] = encodeDocuments(tokenizer, documents);
    expect(tokenizer.decode([...first!])).toBe("<|bos|>ab é");
    expect([...second!].filter((id) => id === tokenizer.bosId)).toEqual([second![0]]);
    expect(tokenizer.decode([...second!])).toBe("<|bos|><|bos|>");
    expect(byteLength(documents)).toBe(5 + 7);
  });

  const about = { source: "test", licence: "CC0-1.0" };

  test("ids come back from any place, two bytes or four", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(300, 65536, 65537, 200_000),
        fc
          .array(fc.array(fc.nat(299), { maxLength: 20 }), { minLength: 1, maxLength: 5 })
          .filter((documents) => documents.flat().length > 0),
        fc.nat(),
        (vocabulary, documents, at) => {
          const path = join(folder, "tokens.bin");
          const ids = documents.flat().map((id, i) => (i === 0 ? vocabulary - 1 : id));
          const kept = documents.filter((document) => document.length > 0);
          let next = 0;
          const index = writeTokens(
            path,
            kept.map((document) => document.map(() => ids[next++]!)),
            vocabulary,
            about,
          );
          expect(index.dtype).toBe(vocabulary > 65536 ? "u32" : "u16");
          using source = new TokenFile(path, { vocabulary });
          expect([...source.read(0, source.length)]).toEqual(ids);
          const start = at % ids.length;
          expect([...source.read(start, ids.length - start)]).toEqual(ids.slice(start));
          expect(source.starts).toEqual(tokensOf(kept).starts);
        },
      ),
      { numRuns: 50 },
    );
  });

  test("a wrong id, another vocabulary, a damaged or shortened file and a missing index are refused", async () => {
    const path = join(folder, "bad.bin");
    expect(() => writeTokens(path, [[1, 2, 300]], 300, about)).toThrow("token 2 is 300");
    expect(() => writeTokens(path, [[]], 300, about)).toThrow("no tokens");
    expect(() => new TokenFile(path)).toThrow("index");
    writeTokens(path, [[1, 2, 299]], 300, about);
    expect(() => new TokenFile(path, { vocabulary: 256 })).toThrow("the model's vocabulary has 256");
    await writeFile(path, Uint8Array.from([1, 0, 3, 0, 43, 1]));
    expect(() => new TokenFile(path)).toThrow("damaged");
    await truncate(path, 4);
    expect(() => new TokenFile(path)).toThrow("4 bytes");
    writeTokens(path, [[1, 2, 299]], 300, about);
    using whole = new TokenFile(path);
    expect(() => whole.read(2, 2)).toThrow("tokens 2 to 4 of 3");
    whole.close();
    expect(() => whole.read(0, 1)).toThrow("closed");
  });
});

/** For each position of a batch: what it may see, as ids. */
const visible = (batch: SequenceBatch, row: number, at: number): number[] => [
  ...batch.inputs.subarray(row * batch.length + batch.first[row * batch.length + at]!, row * batch.length + at + 1),
];

describe("windows", () => {
  const documents = [[10, 11, 12, 13], [20], [30, 31, 32, 33, 34, 35], [40, 41, 42]];
  const source = tokensOf(documents);
  const options = { rows: 3, length: 5, seed: 7 };

  test("a run that goes on from a cursor sees the batches it would have seen", () => {
    const whole = new RandomWindows(source, options);
    const batches = Array.from({ length: 6 }, () => whole.next());
    const first = new RandomWindows(source, options);
    for (let i = 0; i < 3; i++) first.next();
    const cursor = JSON.parse(JSON.stringify(first.cursor));
    const second = new RandomWindows(source, options, cursor);
    for (let i = 3; i < 6; i++) expect(second.next()).toEqual(batches[i]);
    expect(new RandomWindows(source, { ...options, seed: 8 }).next()).not.toEqual(batches[0]);
    expect(() => new RandomWindows(source, options, { seed: 8, step: 3 })).toThrow("seed");
  });

  test("targets are the next tokens, and nothing is seen of another document", () => {
    const ids = documents.flat();
    for (let start = 0; start + 5 < ids.length; start++) {
      const batch = windowsAt(source, [start], 5);
      expect([...batch.inputs]).toEqual(ids.slice(start, start + 5));
      expect([...batch.targets]).toEqual(ids.slice(start + 1, start + 6));
      for (let at = 0; at < 5; at++) {
        const own = documents.find((document) => document.includes(ids[start + at]!))!;
        const seen = own.slice(0, own.indexOf(ids[start + at]!) + 1);
        expect(visible(batch, 0, at)).toEqual(seen.slice(-(at + 1)));
      }
    }
    expect([...windowsAt(source, [2], 5, false).first]).toEqual([0, 0, 0, 0, 0]);
  });

  test("every place is drawn about equally often, the first and the last among them", () => {
    const long = tokensOf([Array.from({ length: 25 }, (_, i) => i)]);
    const windows = new RandomWindows(long, { rows: 50, length: 5, seed: 1 });
    const counts = new Array<number>(20).fill(0);
    for (let step = 0; step < 200; step++) {
      const batch = windows.at(step);
      for (let row = 0; row < 50; row++) counts[batch.inputs[row * 5]!]!++;
    }
    // Chi-squared with 19 degrees of freedom: above 50 once in 10 000 for an even draw.
    expect(counts.reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0)).toBeLessThan(50);
  });

  test("evaluation predicts every token but the first exactly once", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 60 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 9 }),
        (size, rows, length) => {
          const all = tokensOf([Array.from({ length: size }, (_, i) => i)]);
          const seen: number[] = [];
          for (const batch of evaluationWindows(all, rows, length)) {
            expect(batch.inputs.length).toBe(rows * length);
            batch.targets.forEach((target, i) => {
              if (batch.weights[i] === 1) seen.push(target);
              expect(batch.first[i]).toBeLessThanOrEqual(i % length);
            });
          }
          expect(seen).toEqual(Array.from({ length: size - 1 }, (_, i) => i + 1));
        },
      ),
    );
  });

  test("a text shorter than a window is refused with both numbers", () => {
    expect(() => new RandomWindows(tokensOf([[1, 2, 3]]), options)).toThrow("3 tokens, fewer than the 6");
  });
});

describe("packing and padding", () => {
  const example = fc
    .array(fc.record({ id: fc.integer({ min: 1, max: 99 }), bit: fc.nat(1) }), { minLength: 2, maxLength: 12 })
    .map((items) => ({ ids: items.map(({ id }) => id), mask: items.map(({ bit }) => bit) }));

  /** (seen ids, target) of every weighted position, sorted: what the model is taught, wherever it stands. */
  const lessons = (batch: SequenceBatch): string[] =>
    Array.from(batch.weights.keys())
      .filter((i) => batch.weights[i] === 1)
      .map((i) => `${visible(batch, Math.floor(i / batch.length), i % batch.length)} -> ${batch.targets[i]}`)
      .sort();

  test("packing teaches exactly what one example a row teaches", () => {
    fc.assert(
      fc.property(fc.array(example, { minLength: 1, maxLength: 20 }), (examples) => {
        const packed = packExamples(examples, 12);
        expect(lessons(packed.batch)).toEqual(lessons(padExamples(examples, 12)));
        expect(packed.batch.rows).toBeLessThanOrEqual(examples.length);
        expect(packed.truncated).toBe(0);
        for (const [i, { row, start }] of packed.places.entries()) {
          expect(packed.batch.inputs[row * 12 + start]).toBe(examples[i]!.ids[0]);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("an example that is too long loses its end, and is counted", () => {
    const { batch, truncated } = packExamples([{ ids: [1, 2, 3, 4, 5], mask: [0, 1, 1, 1, 1] }], 3);
    expect(truncated).toBe(1);
    expect([...batch.targets]).toEqual([2, 3, 4]);
    expect(() => packExamples([{ ids: [1], mask: [1] }], 3)).toThrow("nothing to predict");
    expect(() => packExamples([{ ids: [1, 2], mask: [1] }], 3)).toThrow("mask of 1");
  });

  test("buckets hold every example once an epoch, in few shapes and in an order the seed decides", () => {
    fc.assert(
      fc.property(
        fc.array(example, { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 1, max: 5 }),
        fc.nat(9),
        (examples, rows, epoch) => {
          const lengths = bucketLengths(
            examples.map(({ ids }) => ids.length),
            3,
            100,
          );
          expect(lengths.at(-1)).toBeGreaterThanOrEqual(Math.max(...examples.map(({ ids }) => ids.length - 1)));
          const batches = bucketBatches(examples, lengths, rows, 1, epoch);
          for (const batch of batches) {
            expect(batch.rows).toBe(rows);
            expect(lengths).toContain(batch.length);
          }
          expect(batches.flatMap(lessons).sort()).toEqual(lessons(padExamples(examples, 12)));
          expect(bucketBatches(examples, lengths, rows, 1, epoch)).toEqual(batches);
        },
      ),
      { numRuns: 100 },
    );
    expect(bucketLengths([5, 70, 33], 16, 64)).toEqual([16, 32, 64]);
    expect(bucketLengths([200], 16, 100)).toEqual([16, 32, 64, 100]);
  });

  test("a shuffle is a permutation that depends on its seeds, and numbers drawn are even in [0, 1)", () => {
    expect([...shuffled(100, 1, 2)].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(shuffled(100, 1, 2)).not.toEqual(shuffled(100, 1, 3));
    const draws = Array.from({ length: 10_000 }, (_, i) => uniform(3, i));
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...draws)).toBeLessThan(1);
    expect(Math.abs(draws.reduce((sum, draw) => sum + draw) / draws.length - 0.5)).toBeLessThan(0.012); // 4 standard errors
  });
});

describe("JSONL", () => {
  test("the known forms are read into one", async () => {
    const path = await file(
      "chats.jsonl",
      `{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "X"}], "id": 3}\n\n{"prompt": "c", "response": "d"}\n{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "e"}], "response": "f"}`,
    );
    const conversations = await readConversations(path);
    expect(conversations.map(({ messages }) => messages.map(({ role, content }) => `${role} ${content}`))).toEqual([
      ["user a", "assistant b"],
      ["user c", "assistant d"],
      ["system s", "user e", "assistant f"],
    ]);
    expect(conversations[0]!.messages[1]!.name).toBe("X");
    const preferences = await readPreferences(
      await file(
        "preferences.jsonl",
        `{"prompt": "q", "chosen": "good", "rejected": "bad"}\n{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}\n`,
      ),
    );
    expect(preferences[1]).toEqual(preferences[0]);
    expect(preferences[0]).toEqual({ prompt: [{ role: "user", content: "q" }], chosen: "good", rejected: "bad" });
  });

  test.each([
    ["{oops", "line.jsonl:2: not JSON"],
    ["3", "line.jsonl:2: not an object"],
    ['{"messages": [{"role": "user", "content": "a"}]}', "the last message must be the assistant's"],
    ['{"messages": [{"role": "user", "content": 7}]}', "line.jsonl:2: messages.0.content"],
    ['{"prompt": "a"}', "line.jsonl:2: response"],
  ])("%s is refused with its file, line and key", async (line, message) => {
    const path = await file("line.jsonl", `{"prompt": "c", "response": "d"}\n${line}\n`);
    await expect(readConversations(path)).rejects.toThrow(InputError);
    await expect(readConversations(path)).rejects.toThrow(message);
  });

  test("a preference without its rejected reply, and a file of nothing, are refused", async () => {
    await expect(readPreferences(await file("p.jsonl", '{"prompt": "a", "chosen": "b"}'))).rejects.toThrow(
      "p.jsonl:1: rejected",
    );
    await expect(
      readPreferences(
        await file("p.jsonl", '{"prompt": "a", "chosen": "b", "rejected": [{"role": "user", "content": "x"}]}'),
      ),
    ).rejects.toThrow("rejected");
    await expect(readConversations(join(folder, "none.jsonl"))).rejects.toThrow("no such file");
  });
});

test("the bundled text is the one its README describes", async () => {
  const { sha256 } = await import("../../src/data/text.ts");
  const bytes = await readFile(new URL("../../data/tinyshakespeare.txt", import.meta.url));
  expect(await readFile(new URL("../../data/README.md", import.meta.url), "utf8")).toContain(sha256(bytes));
});
