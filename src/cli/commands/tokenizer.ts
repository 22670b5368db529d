import { performance } from "node:perf_hooks";
import { z } from "zod";
import { requireFolder } from "../../runs/atomic.ts";
import { InputError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import { formatSeconds } from "../text.ts";

const folder = z
  .string()
  .describe("a folder with a tokenizer, or its file: tokenizer.json, .model, .gguf, .tiktoken, vocab.txt")
  .meta({ value: "DIR", short: "t" });

/** Of a pipe: its text, its ids and what is printed of them are in memory at once. */
const LARGEST = 32 * 2 ** 20;

/** What stands on the command line, or else what comes through the pipe. */
async function given(words: readonly string[]): Promise<string> {
  if (words.length > 0) return words.join(" ");
  if (process.stdin.isTTY) throw new InputError("Nothing to work on: give it as an argument, or through a pipe.");
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of process.stdin as AsyncIterable<Buffer>) {
    parts.push(part);
    bytes += part.length;
    if (bytes > LARGEST)
      throw new InputError(
        `More than ${LARGEST / 2 ** 20} MB came through the pipe. Give it in parts; "howdah data build" makes token files of any size.`,
      );
  }
  return Buffer.concat(parts).toString("utf8");
}

export const tokenizerTrain = defineCommand({
  name: "tokenizer train",
  summary: "learn a vocabulary from text",
  description:
    "Learns a vocabulary and writes tokenizer.json as Hugging Face tokenizers reads it. The text may be larger than memory: it is streamed, " +
    "and its words are counted on disk where they do not fit into --memory. If they are too many to learn from, a sample of the rarer ones stands for all.",
  options: z.object({
    text: z.array(z.string()).min(1).describe("text or Markdown files, or folders of them"),
    output: z.string().describe("the folder to write").meta({ value: "DIR", short: "o" }),
    kind: z
      .enum(["bpe", "sentencepiece", "unigram", "wordpiece"], {
        error: "expected bpe, sentencepiece, unigram or wordpiece",
      })
      .default("bpe")
      .describe("byte-level BPE (GPT-2), BPE with byte fallback (LLaMA), Unigram (T5) or WordPiece (BERT)"),
    vocabulary: z
      .number()
      .int()
      .min(257)
      .default(1024)
      .describe("tokens in all: special ones, bytes, characters, merges"),
    minFrequency: z.number().int().min(1).default(2).describe("a pair seen less often is not merged"),
    special: z.array(z.string().min(1)).default([]).describe("a special token").meta({ value: "TOKEN" }),
    coverage: z
      .number()
      .gt(0)
      .max(1)
      .optional()
      .describe("part of the text's characters with a token of their own (not bpe)"),
    byteFallback: z.boolean().optional().describe("bytes for characters without a token (sentencepiece, unigram)"),
    memory: z
      .number()
      .min(1)
      .default(2048)
      .describe("memory for counting words and learning, about")
      .meta({ value: "MB" }),
    chat: z.boolean().default(false).describe("add the special tokens and the template of howdah's chat models"),
  }),
  positional: ["text"],
  examples: [
    ["howdah tokenizer train data/tinyshakespeare.txt -o my-tokenizer", "1024 tokens from one file"],
    ["howdah tokenizer train notes/ -o my-tokenizer --vocabulary 8192 --chat", "a larger one, for chat, from a folder"],
    ["howdah tokenizer train corpus/ -o t5 --kind unigram --vocabulary 32000", "a Unigram vocabulary, as T5 has it"],
  ],
  async run(options, { print, signal }) {
    const { text, output, kind, vocabulary, minFrequency, special, coverage, byteFallback, memory, chat } = options;
    const [{ streamTexts, textFiles }, tokenizers] = await Promise.all([
      import("../text-stream.ts"),
      import("../../tokenizers/index.ts"),
    ]);
    const files = await textFiles(text);
    requireFolder(output);
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    const start = performance.now();
    let said = start;
    const tokenizer = await tokenizers.trainTokenizer(streamTexts(files), {
      kind,
      vocabulary,
      minFrequency,
      specialTokens: [...(chat ? tokenizers.CHAT_SPECIAL_TOKENS : []), ...special],
      ...(coverage === undefined ? {} : { coverage }),
      ...(byteFallback === undefined ? {} : { byteFallback }),
      ...(chat ? { config: tokenizers.CHAT_TOKENIZER_CONFIG } : {}),
      memory: memory * 2 ** 20,
      signal,
      onCounted({ distinct, kept, spilled }) {
        if (distinct === 0) throw new InputError(`${text.join(", ")}: no words in it to learn from.`);
        const disk = spilled === 0 ? "" : `, counted with ${(spilled / 1e6).toFixed(0)} MB on disk`;
        if (kept < distinct)
          print(`${distinct} distinct words${disk}: ${kept} of them stand for all (more with --memory)`);
        else if (disk !== "") print(`${distinct} distinct words${disk}`);
      },
      onProgress({ phase, bytes, learnt }) {
        if (performance.now() - said < 2000) return;
        said = performance.now();
        const seconds = (said - start) / 1000;
        if (phase === "counting") {
          const left = bytes === 0 ? "" : `, ${formatSeconds((seconds * (total - bytes)) / bytes)} left`;
          print(`counting words: ${(bytes / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB${left}`);
        } else {
          print(
            kind !== "unigram"
              ? `merging: ${learnt} merges`
              : learnt > 0
                ? `pruning: ${learnt} pieces`
                : "finding pieces",
          );
        }
      },
    });
    const seconds = (performance.now() - start) / 1000;
    await tokenizer.save(output);
    let bytes = 0;
    let tokens = 0;
    for await (const part of streamTexts(files)) {
      signal.throwIfAborted();
      bytes += Buffer.byteLength(part);
      const [ids] = await tokenizers.encodeMany(tokenizer, [part], { addSpecialTokens: false });
      tokens += ids!.length;
    }
    print(
      `${tokenizer.vocabularySize} tokens from ${files.length} file${files.length === 1 ? "" : "s"} in ${formatSeconds(seconds)}: ${output}`,
    );
    print(`${(bytes / tokens).toFixed(2)} bytes per token on this text`);
    if (tokenizer.vocabularySize < vocabulary) {
      const no = kind === "unigram" ? "pieces are worth a place" : `pairs are seen ${minFrequency} times`;
      print(`Fewer than ${vocabulary}: no more ${no}.`);
    }
    return { output, kind, vocabulary: tokenizer.vocabularySize, documents: files.length, bytes, tokens, seconds };
  },
});

export const tokenizerEncode = defineCommand({
  name: "tokenizer encode",
  summary: "text to token ids",
  options: z.object({
    text: z.array(z.string()).default([]).describe("the text; read from the pipe if not given"),
    tokenizer: folder,
    addSpecial: z.boolean().default(true).describe("leave out what the tokenizer adds, such as a beginning token"),
    allowSpecial: z.boolean().default(false).describe("special tokens spelled out in the text count as such"),
    pieces: z.boolean().default(false).describe("print each id with its piece of text"),
  }),
  positional: ["text"],
  examples: [
    ['howdah tokenizer encode -t my-tokenizer "To be, or not to be"', "the ids of a text"],
    ["howdah tokenizer encode -t my-tokenizer < notes.txt", "the ids of a file"],
  ],
  async run({ text, tokenizer: path, addSpecial, allowSpecial, pieces }, { print }) {
    const { loadTokenizer } = await import("../../tokenizers/index.ts");
    const tokenizer = await loadTokenizer(path);
    const options = {
      addSpecialTokens: addSpecial,
      allowedSpecial: allowSpecial ? ("all" as const) : ("none" as const),
    };
    const ids = tokenizer.encode(await given(text), options);
    if (pieces) for (const id of ids) print(`${id}\t${JSON.stringify(tokenizer.decode([id]))}`);
    else print(ids.join(" "));
    return { count: ids.length, ids };
  },
});

export const tokenizerDecode = defineCommand({
  name: "tokenizer decode",
  summary: "token ids to text",
  options: z.object({
    ids: z.array(z.string()).default([]).describe("the ids; read from the pipe if not given"),
    tokenizer: folder,
    skipSpecial: z.boolean().default(false).describe("leave special tokens out of the text"),
  }),
  positional: ["ids"],
  examples: [["howdah tokenizer decode -t my-tokenizer 84 111 322", "the text of three tokens"]],
  async run({ ids: words, tokenizer: path, skipSpecial }, { print }) {
    const { loadTokenizer } = await import("../../tokenizers/index.ts");
    const tokenizer = await loadTokenizer(path);
    const ids = (await given(words))
      .split(/[\s,]+/)
      .filter(Boolean)
      .map((word) => {
        const id = Number(word);
        if (!Number.isInteger(id)) throw new InputError(`"${word}" is not a token id: expected whole numbers.`);
        return id;
      });
    const text = tokenizer.decode(ids, { skipSpecialTokens: skipSpecial });
    print(text);
    return { count: ids.length, text };
  },
});
