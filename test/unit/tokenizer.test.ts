import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../src/tensor/errors.ts";
import { BpeMerger } from "../../src/tokenizers/bpe.ts";
import {
  applyChatTemplate,
  CHAT_SPECIAL_TOKENS,
  CHAT_TOKENIZER_CONFIG,
  checkTokenizerFile,
  encodeChat,
  Llama2cTokenizer,
  loadTokenizer,
  trainByteLevelBpe,
  Utf8Stream,
} from "../../src/tokenizers/index.ts";
import { characterClasses } from "../../src/tokenizers/native.ts";
import { GPT2_PATTERN, splitGpt2, splitterOf } from "../../src/tokenizers/pretokenize.ts";
import { translateRegex } from "../../src/tokenizers/regex.ts";

const corpus = "The quick brown fox. 敏捷的棕色狐狸。 🦊🦊 It's the fox's fox, isn't it? ".repeat(20);
const tokenizer = trainByteLevelBpe([corpus], {
  vocabulary: 400,
  specialTokens: CHAT_SPECIAL_TOKENS,
  config: CHAT_TOKENIZER_CONFIG,
});
const llama2c = Llama2cTokenizer.parse(
  await readFile(new URL("../golden/tokenizers/tok512.bin", import.meta.url)),
  "tok512.bin",
);

/** Any string: code units at random (lone surrogates among them), scripts, white space, and the special tokens' own spelling. */
const anyText = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.array(fc.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units)),
  fc
    .array(fc.constantFrom("<|end|>", "fox", " ", "\n", "'s", "棕", "🦊", "\ud83d", "é", "<0x41>", "</s>"))
    .map((a) => a.join("")),
);
const wellFormed = (text: string): string => text.replace(/\p{Surrogate}/gu, "\ufffd");

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-tokenizer-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe.each([
  ["byte-level BPE", tokenizer],
  ["llama2.c's tokenizer", llama2c],
])("%s", (_, coder) => {
  test("decoding what was encoded gives the text back, lone surrogates as U+FFFD", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const ids = coder.encode(text, { addSpecialTokens: false });
        expect(coder.decode(ids)).toBe(wellFormed(text));
      }),
      { numRuns: 500 },
    );
  });

  test("streamed pieces joined are the decoded text, and none ends inside a character", () => {
    const id = fc.integer({ min: 0, max: coder.vocabularySize - 1 });
    fc.assert(
      fc.property(fc.array(id, { maxLength: 40 }), fc.boolean(), (ids, skipSpecialTokens) => {
        const stream = coder.stream({ skipSpecialTokens });
        const pieces = ids.map((each) => stream.push(each));
        expect(pieces.join("") + stream.end()).toBe(coder.decode(ids, { skipSpecialTokens }));
        for (const piece of pieces) expect(wellFormed(piece)).toBe(piece);
      }),
      { numRuns: 500 },
    );
    fc.assert(
      fc.property(anyText.map(wellFormed), (text) => {
        const stream = coder.stream();
        const pieces = coder.encode(text, { addSpecialTokens: false }).map((each) => stream.push(each));
        // A well-formed text needs no replacement characters on the way, and leaves nothing behind.
        expect(pieces.join("")).toBe(text);
        expect(stream.end()).toBe("");
      }),
      { numRuns: 300 },
    );
  });

  test("an id outside the vocabulary is an error that names it", () => {
    expect(() => coder.decode([coder.vocabularySize])).toThrow(InputError);
    expect(() => coder.decode([coder.vocabularySize])).toThrow(`id ${coder.vocabularySize}`);
    expect(() => coder.stream().push(-1)).toThrow("id -1");
  });

  test("a special token in the text is text, unless it is allowed", () => {
    const name = coder === tokenizer ? "<|end|>" : "</s>";
    const id = coder.tokenId(name)!;
    const text = `a${name}b`;
    const options = { addSpecialTokens: false };
    expect(coder.encode(text, options)).not.toContain(id);
    expect(coder.encode(text, { ...options, allowedSpecial: "all" })).toContain(id);
    expect(coder.encode(text, { ...options, allowedSpecial: [name] })).toContain(id);
    expect(coder.encode(text, { ...options, allowedSpecial: ["another"] })).not.toContain(id);
    expect(
      coder.decode(coder.encode(text, { ...options, allowedSpecial: "all" }), { skipSpecialTokens: true }),
    ).toMatch(/^a ?b$/);
  });
});

describe("merging", () => {
  test("the heap for long words and the scan for short ones agree", () => {
    // Merges over ids 0..3 and what they make, as training would order them.
    const pair = fc.tuple(fc.nat(3), fc.nat(3));
    const merges = fc.uniqueArray(pair, { selector: String, maxLength: 12 }).map((first) => {
      const list = first.map(([left, right], i) => ({ left, right, id: 4 + i }));
      return [
        ...list,
        ...list.map((merge, i) => ({ left: merge.id, right: list[list.length - 1 - i]!.id, id: 100 + i })),
      ];
    });
    fc.assert(
      fc.property(merges, fc.array(fc.nat(3), { minLength: 41, maxLength: 300 }), (list, symbols) => {
        const buffer = Int32Array.from(symbols);
        const kept = new BpeMerger(list).merge(buffer, symbols.length);
        expect([...buffer.subarray(0, kept)]).toEqual(mergedByDefinition(symbols, list));
      }),
      { numRuns: 300 },
    );
  });

  test("a million letters without a space take seconds, not hours", () => {
    const line = "thequickbrownfoxjumps".repeat(50_000);
    const start = performance.now();
    const ids = tokenizer.encode(line);
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(tokenizer.decode(ids)).toBe(line);
  });
});

test("a run too long for the expression engine's stack is split in two instead of thrown at", () => {
  const split = splitterOf({ type: "Split", pattern: { Regex: "[^a]+" }, behavior: "Isolated", invert: false });
  for (const [text, words] of [
    ["🦙".repeat(10_000_000), 2],
    [`a${"🦙".repeat(5_000_000)}\n${"🦙".repeat(5_000_000)}`, 3],
  ] as const) {
    const found: string[] = [];
    split(text, (word) => found.push(word));
    expect(found.join("") === text).toBe(true);
    expect(found.length).toBe(words);
  }
});

test("llama2.c's tokenizer drops the leading space at the start of a text, not after a prompt", () => {
  const [first] = llama2c.encode("was", { addSpecialTokens: false }).slice(0, 1);
  expect(llama2c.idToToken(first!)).toMatch(/^ /);
  expect(llama2c.stream().push(first!)).toBe(llama2c.idToToken(first!)!.slice(1));
  expect(llama2c.stream({ after: [1] }).push(first!)).toBe(llama2c.idToToken(first!)!.slice(1));
  expect(llama2c.stream({ after: [1, 403] }).push(first!)).toBe(llama2c.idToToken(first!));
});

/** Sennrich et al. 2016, as the paper says it: the best-ranked pair anywhere, again and again. */
function mergedByDefinition(symbols: number[], merges: { left: number; right: number; id: number }[]): number[] {
  let current = [...symbols];
  for (;;) {
    const rankAt = (i: number): number => {
      const rank = merges.findIndex((merge) => merge.left === current[i] && merge.right === current[i + 1]);
      return rank === -1 ? Number.POSITIVE_INFINITY : rank;
    };
    let best = -1;
    for (let i = 0; i + 1 < current.length; i++) {
      if (rankAt(i) < (best === -1 ? Number.POSITIVE_INFINITY : rankAt(best))) best = i;
    }
    if (best === -1) return current;
    current = [...current.slice(0, best), merges[rankAt(best)]!.id, ...current.slice(best + 2)];
  }
}

/** Characters on which this engine's Unicode version and the one of our tables (16.0) disagree, replaced by one they agree on. */
const classes = characterClasses();
const settled = (text: string): string =>
  Array.from(text, (c) => {
    const flags = classes[c.codePointAt(0)!]!;
    return /\p{L}/u.test(c) === ((flags & 1) !== 0) && /\p{N}/u.test(c) === ((flags & 2) !== 0) ? c : "\ufffd";
  }).join("");

describe("splitting into words", () => {
  test("the hand-written scanner splits as GPT-2's expression does", () => {
    const expression = translateRegex(GPT2_PATTERN);
    fc.assert(
      fc.property(anyText.map(wellFormed).map(settled), (text) => {
        const words: string[] = [];
        splitGpt2(text, (word) => words.push(word));
        expect(words).toEqual(text.match(expression) ?? []);
      }),
      { numRuns: 1000 },
    );
  });

  test.each([
    "(?<name>a)",
    "\\bword",
    "^a",
    "a$",
    "(?i)a",
    "(?i:é)",
    "[a&&b]",
    "[[:alpha:]]",
    "\\p{Alphabetic}",
    "a{2}+",
    "(a",
    "a)",
    "\\w",
    "(?>a)",
    "a**",
  ])("the expression %s is refused, because it is not known to mean the same", (pattern) => {
    expect(() => translateRegex(pattern)).toThrow(InputError);
    expect(() => translateRegex(pattern)).toThrow("does not know how to translate");
  });
});

describe("UTF-8 in pieces", () => {
  test("any bytes cut anywhere decode as they do in one piece", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 6 })), (parts) => {
        const stream = new Utf8Stream();
        const text = parts.map((part) => stream.push(part)).join("") + stream.end();
        expect(text).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(parts)));
      }),
      { numRuns: 2000 },
    );
  });

  test("every cut of every kind of character waits for the rest", () => {
    const bytes = Buffer.from("a\u00e9\u4e2d\ud7ff\ue000\u{10ffff}\u{1f418}\ufeff");
    const stream = new Utf8Stream();
    const text = [...bytes].map((byte) => stream.push(Uint8Array.of(byte))).join("");
    expect(text).toBe(bytes.toString("utf8"));
    expect(stream.end()).toBe("");
  });
});

describe("tokenizer.json", () => {
  test("saving and loading gives the same tokenizer, chat template included", async () => {
    await tokenizer.save(folder);
    const loaded = await loadTokenizer(folder);
    expect(loaded.encode(corpus)).toEqual(tokenizer.encode(corpus));
    expect(loaded.chatTemplate).toBe(tokenizer.chatTemplate);
    expect([loaded.bosId, loaded.eosId, loaded.padId]).toEqual([0, 1, 2]);
    expect(loaded.specialTokens).toEqual(tokenizer.specialTokens);
    expect((await readdir(folder)).sort()).toEqual([
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
  });

  test("a chat_template.jinja beside it is the template, and is not left behind to overrule a later save", async () => {
    await tokenizer.save(folder);
    await writeFile(join(folder, "chat_template.jinja"), "{{ messages }}");
    const loaded = await loadTokenizer(folder);
    expect(loaded.chatTemplate).toBe("{{ messages }}");
    await loaded.save(folder);
    expect((await loadTokenizer(folder)).chatTemplate).toBe("{{ messages }}");
    expect(await readdir(folder)).not.toContain("chat_template.jinja");
  });

  const adding = (id: string, ids: number[]): object => ({
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: ids.length === 0 ? {} : { [id]: { id, ids, tokens: [id] } },
  });
  const good = async (): Promise<Record<string, Record<string, unknown>>> => {
    await tokenizer.save(folder);
    return JSON.parse(await readFile(join(folder, "tokenizer.json"), "utf8"));
  };
  test.each([
    ["normalizer", { type: "Surprise" }, 'the normalizer "Surprise"'],
    ["pre_tokenizer", { type: "UnicodeScripts" }, '"UnicodeScripts"'],
    ["pre_tokenizer", { type: "ByteLevel", surprise: 1 }, '"surprise"'],
    ["post_processor", { type: "Surprise" }, 'the post_processor "Surprise"'],
    ["post_processor", { type: "BertProcessing" }, "post_processor.sep"],
    ["post_processor", adding("<gone>", []), "uses <gone>"],
    ["post_processor", adding("<s>", [9999]), "the id 9999"],
    ["decoder", { type: "Other" }, 'the decoder "Other"'],
    ["decoder", null, "decoder"],
    ["model", { type: "Surprise", vocab: [] }, 'the model "Surprise"'],
    ["model", { type: "Unigram", vocab: [] }, "model.unk_id"],
    ["truncation", { max_length: 5 }, "truncation"],
    ["padding", { length: 5 }, "padding"],
    ["another", {}, '"another"'],
  ])("an unknown %s (%o) is refused by name", async (key, value, message) => {
    const file = { ...(await good()), [key]: value };
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(file));
    await expect(loadTokenizer(folder)).rejects.toThrow(InputError);
    await expect(loadTokenizer(folder)).rejects.toThrow(message);
  });

  test.each([
    [{ dropout: 0.1 }, "dropout"],
    [{ unk_token: "<nowhere>" }, "<nowhere>"],
    [{ merges: [["no", "such"]] }, '"no"'],
    [{ vocab: { a: 0, b: 0 }, merges: [] }, "both have the id 0"],
  ])("a model with %o is refused", async (change, message) => {
    const file = await good();
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify({ ...file, model: { ...file.model, ...change } }));
    await expect(loadTokenizer(folder)).rejects.toThrow(message);
  });

  test("a folder without a tokenizer says what was looked for", async () => {
    const empty = await mkdtemp(join(folder, "empty-"));
    await expect(loadTokenizer(empty)).rejects.toThrow("Expected tokenizer.json");
  });

  test("a configured token that the vocabulary lacks is refused", async () => {
    await tokenizer.save(folder);
    await writeFile(join(folder, "tokenizer_config.json"), '{"eos_token": {"content": "<|gone|>"}}');
    await expect(loadTokenizer(folder)).rejects.toThrow('eos_token is "<|gone|>"');
  });

  test("tokens that look like numbers, or like __proto__, keep their ids", async () => {
    const text = "__proto__ 10 7 constructor ".repeat(50);
    const trained = trainByteLevelBpe([text], { vocabulary: 300, specialTokens: ["__proto__"] });
    const ten = trained.tokenId("10");
    expect(ten).toBeGreaterThan(256);
    expect(trained.tokenId("__proto__")).toBe(0);
    await trained.save(folder);
    const loaded = await loadTokenizer(folder);
    expect([loaded.tokenId("10"), loaded.tokenId("__proto__")]).toEqual([ten, 0]);
    expect(loaded.decode(loaded.encode(text))).toBe(text);
  });
});

describe("training", () => {
  test("a vocabulary without room for the bytes is refused, saying how much is needed", () => {
    expect(() => trainByteLevelBpe(["a"], { vocabulary: 256, specialTokens: ["<x>"] })).toThrow("at least 257");
    expect(() => trainByteLevelBpe(["a"], { vocabulary: 300.5 })).toThrow(InputError);
    expect(() => trainByteLevelBpe(["a"], { vocabulary: 300, specialTokens: ["<x>", "<x>"] })).toThrow("twice");
  });

  test("a text that runs out of pairs gives a smaller vocabulary, which still writes every text", () => {
    const small = trainByteLevelBpe(["ab"], { vocabulary: 1000 });
    expect(small.vocabularySize).toBe(257);
    expect(small.decode(small.encode("χyz 🐘"))).toBe("χyz 🐘");
  });
});

describe("chat", () => {
  const messages = [
    { role: "user", name: "ROMEO", content: "the fox?" },
    { role: "assistant", name: "JULIET", content: "It's the fox." },
  ];
  const masked = (chat: { ids: number[]; assistantMask: number[] }): string =>
    tokenizer.decode(chat.ids.filter((_, i) => chat.assistantMask[i] === 1));

  test("the mask covers the reply and the end of the turn, and not the name", () => {
    const chat = encodeChat(tokenizer, messages);
    expect(tokenizer.decode(chat.ids)).toBe(
      "<|bos|><|user|>ROMEO\nthe fox?<|end|><|assistant|>JULIET\nIt's the fox.<|end|>",
    );
    expect(masked(chat)).toBe("It's the fox.<|end|>");
    expect(chat.ids[0]).toBe(tokenizer.bosId);
  });

  test("without generation blocks, the replies are found by what each message adds", () => {
    const plain = tokenizer
      .chatTemplate!.replaceAll(/\{%- (end)?generation %\}/g, "")
      .replaceAll(/\{%- ?(end)?generation ?%\}/g, "");
    expect(plain).not.toContain("generation %");
    const first = encodeChat(tokenizer, [...messages, ...messages], { template: plain });
    expect(first).toEqual(encodeChat(tokenizer, [...messages, ...messages]));
    const chatml =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    expect(masked(encodeChat(tokenizer, messages, { template: chatml }))).toBe("It's the fox.<|end|>");
  });

  test("a template whose beginning depends on its end needs generation blocks", () => {
    const counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    expect(() => encodeChat(tokenizer, messages, { template: counting })).toThrow("{% generation %}");
  });

  test("nobody can end a turn or take another role by writing the special tokens", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(...CHAT_SPECIAL_TOKENS, "a", "\n", "\ufdd0", "\ufdd1", "\ufdd2", "<", "|end|>")),
        (parts) => {
          const content = parts.join("");
          const chat = encodeChat(tokenizer, [{ role: "user", name: content, content }, messages[1]!]);
          const special = chat.ids.filter((id) => id < CHAT_SPECIAL_TOKENS.length).map((id) => tokenizer.idToToken(id));
          expect(special).toEqual(["<|bos|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]);
          expect(masked(chat)).toBe("It's the fox.<|end|>");
          const clean = content.replaceAll(/[\ufdd0-\ufdd2]/g, "");
          expect(tokenizer.decode(chat.ids)).toContain(`\n${clean}<|end|><|assistant|>`);
        },
      ),
      { numRuns: 200 },
    );
  });

  test("a template gives what Python's Jinja gives where the two languages differ", () => {
    const value = {
      deep: [1.5, true, null, { a: "b" }],
      small: 1e-7,
      items: "a key",
      none: null,
    };
    const said = (template: string): string =>
      applyChatTemplate(template, [{ role: "user", content: "<b>" }], { variables: { value } });
    for (const [template, text] of [
      ["{{ value.deep | string }}|{{ value.none }}|{{ nowhere }}", "[1.5, True, None, {'a': 'b'}]|None|"],
      ["{{ value.small }} {{ value.small * 2.0 }} {{ [0.0001, 1.0, 0.1] }}", "1e-07 2e-07 [0.0001, 1.0, 0.1]"],
      ["{{ [value.small, 2.0] | tojson }}", "[1e-07, 2.0]"],
      ["{{ (1, 'a') }}{{ true ~ none }}", "(1, 'a')TrueNone"],
      ["{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }};{% endfor %}", "1-2;3-4;"],
      ["{% for k, v in value.items() %}{{ k }} {% endfor %}{{ value['items'] }}", "deep small items none a key"],
      ["{{ value[nowhere] is defined }}{{ '1' == 1 }}{{ none == nowhere }}{{ [1] == [1.0] }}", "FalseFalseFalseTrue"],
      ["{{ none | selectattr('type') | list | length }}{{ nowhere | trim }}{{ [3, 1, 2] | min }}", "01"],
      ["{{ '<i>' | safe + messages[0].content + '\"' }}", "<i>&lt;b&gt;&#34;"],
      [
        "{{ nowhere is iterable }}{% for c in nowhere %}x{% endfor %}{% for c in 'a東' %}{{ c }},{% endfor %}",
        "Truea,東,",
      ],
      ["{{ '<{}|{}>'.format('a', 2) }}", "<a|2>"],
      ["{% for i in [1, 2] %}{{ i }}{% if i == 1 %}!{% continue %}{% endif %}.{% endfor %}", "1!2."],
    ] as const) {
      expect(said(template), template).toBe(text);
    }
  });

  test("what a template cannot have printed as Python prints it is refused by name", () => {
    const refused = (template: string, why: RegExp): void =>
      expect(() => applyChatTemplate(template, [{ role: "user", content: "x" }]), template).toThrow(why);
    refused("{{ messages | map(attribute='role') }}", /lazy/);
    refused("{{ messages | map(attribute='role') | tojson }}", /lazy/);
    refused("{{ 'a' + 1 }}", /Python does not add/);
    refused("{{ nowhere | tojson }}", /not defined/);
    refused("{{ '{:>3}'.format(1) }}", /format/);
    refused("{{ ['b', 'a'] | min }}", /numbers/);
    refused("{{ {'B': 1, 'a': 2} | tojson(sort_keys=true) }}", /sort_keys/);
    refused("{% for i in [1, 2] %}x{% break %}{% endfor %}", /break/);
  });

  test("strip takes the characters it is given, and lists and booleans are printed as Python prints them", () => {
    const messages = [{ role: "user", content: "\n\n  x \n", list: ["it's", true, null, { a: 1.5 }] }];
    const template =
      "{{ messages[0].content.lstrip('\\n') }}|{{ messages[0].content.rstrip('\\n') }}|{{ messages[0].content.strip('\\n ') }}|" +
      "{{ messages[0].content.strip() }}|{{ messages[0].list }}|{{ true }}";
    expect(applyChatTemplate(template, messages)).toBe("  x \n|\n\n  x |x|x|[\"it's\", True, None, {'a': 1.5}]|True");
  });

  test("a template that refuses, or cannot be parsed, is an input error with its own words", () => {
    expect(() => encodeChat(tokenizer, [{ role: "wizard", content: "" }])).toThrow("not wizard");
    expect(() => encodeChat(tokenizer, messages, { template: "{% if %}" })).toThrow(InputError);
    expect(() => encodeChat(llama2c, messages)).toThrow("no chat template");
  });
});

test("a tokenizer.json must be an object", () => {
  expect(() => checkTokenizerFile([], "x.json")).toThrow(InputError);
  expect(() => checkTokenizerFile({ model: null }, "x.json")).toThrow("x.json");
});
