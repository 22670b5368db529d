import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { InputError } from "../../src/tensor/errors.ts";
import { applyChatTemplate, type ChatMessage, encodeMany, loadTokenizer } from "../../src/tokenizers/index.ts";
import { CL100K_PATTERN, O200K_PATTERN } from "../../src/tokenizers/tiktoken.ts";
import type { Entrant, Work } from "../contest.ts";
import { corpus } from "../corpus.ts";
import { environmentOf, machine, ours, pythonPeer, threads } from "../environment.ts";
import { contestShape, runContest } from "../suite.ts";
import { table } from "../table.ts";
import type { TokenizerParameters, Trained } from "../workers/tokenizers.ts";

const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** GPT-2's merges with each splitting expression, and the peers that have it. */
const patterns = [
  { name: "gpt2", expression: null, peers: ["tiktoken", "tokenizers"], javaScript: true },
  { name: "cl100k", expression: CL100K_PATTERN, peers: ["tiktoken"], javaScript: false },
  { name: "o200k", expression: O200K_PATTERN, peers: ["tiktoken", "tokenizers"], javaScript: false },
  { name: "llama3", expression: LLAMA3, peers: ["tokenizers"], javaScript: false },
  { name: "qwen2", expression: LLAMA3.replace("{1,3}", ""), peers: ["tokenizers"], javaScript: false },
] as const;

const options = z.object({
  ...contestShape,
  rounds: z.number().int().min(1).default(3).describe("turns of each side"),
  seconds: z.number().positive().default(1).describe("length of a turn").meta({ value: "S" }),
  text: z
    .array(z.string())
    .default(["data", "docs", "src"])
    .describe("files and folders of text, mixed and repeated to the sizes below"),
  megabytes: z.number().positive().default(6).describe("text of a step whose time is taken").meta({ value: "MB" }),
  parity: z.number().nonnegative().default(100).describe("text whose ids are compared; 0: none").meta({ value: "MB" }),
  train: z.number().nonnegative().default(20).describe("text that is trained on; 0: none").meta({ value: "MB" }),
  vocabulary: z.number().int().min(300).default(32_000).describe("of the training"),
  kinds: z
    .string()
    .default("bpe,sentencepiece,unigram,wordpiece")
    .describe("kinds that are trained")
    .meta({ value: "LIST" }),
  only: z.enum(["all", "parity", "encode", "train"]).default("all").describe("one part"),
  vectors: z
    .string()
    .optional()
    .describe("a folder with llama.cpp's vocabularies and test vectors (ggml-vocab-*.gguf, .gguf.inp, .gguf.out)")
    .meta({ value: "DIR" }),
  templates: z
    .string()
    .optional()
    .describe("a folder of chat templates (*.jinja) to render beside transformers' apply_chat_template")
    .meta({ value: "DIR" }),
  tokenizer: z
    .array(z.string())
    .default([])
    .describe(
      "SentencePiece .model files, BERT's vocab.txt or tokenizer.json files to measure beside sentencepiece and tokenizers",
    ),
});

export const tokenizers = defineCommand({
  name: "tokenizers",
  summary: "encoding and training beside tiktoken, tokenizers, sentencepiece and JavaScript",
  description:
    "Ids of every text compared with the peers', then encoding and training in turns. The vocabulary is GPT-2's; " +
    "the pure-JavaScript peers are found by HOWDAH_NODE_PEERS, a folder with js-tiktoken and gpt-tokenizer in its node_modules.",
  options,
  async run(o, context) {
    const { print } = context;
    const parts = (name: typeof o.only) => o.only === "all" || o.only === name;
    const results: Record<string, unknown> = {};
    const parameters = (task: TokenizerParameters["task"], file: string, count: number): TokenizerParameters => ({
      task,
      file,
      pattern: "gpt2",
      expression: null,
      threads: count,
      vocabulary: o.vocabulary,
    });
    const files = o.tokenizer.map((path) => ({
      name: path,
      expression: null,
      peers: [path.endsWith(".model") ? "sentencepiece" : "tokenizers"],
      javaScript: false,
    }));
    const chosen = patterns.filter((p) => o.works === undefined || o.works.split(",").some((w) => p.name.includes(w)));
    if (chosen.length + files.length === 0)
      throw new InputError(`--works: there are ${patterns.map((p) => p.name).join(", ")}.`);

    if (parts("parity") && o.vectors !== undefined) results.vectors = await vectorsIn(o.vectors, print);

    if (parts("parity") && o.templates !== undefined && !o.alone)
      results.templates = await templatesIn(o.templates, parameters("templates", o.templates, 1), print);

    if (parts("parity") && o.parity > 0 && !o.alone) {
      machine(print);
      const text = await corpus(o.text, o.parity, true, "tokenizers-parity");
      print(`${text.documents} texts, ${(text.bytes / 1e6).toFixed(1)} MB: ids compared`);
      const rows = [["work", "peer", "texts", "ids differ"]];
      const works = [...chosen, ...files].flatMap((p) =>
        p.peers.map((peer) => ({ name: p.name, expression: p.expression, peer })),
      );
      let wrong = 0;
      for (const { name, expression, peer } of works) {
        const p = { ...parameters("ids", text.file, threads()), pattern: name, expression };
        const mine = await idsOf(ours("tokenizers"), p);
        const theirs = await idsOf(pythonPeer("", "tokenizing", peer), p);
        const differ = mine.filter((hash, i) => hash !== theirs[i]).length + Math.abs(mine.length - theirs.length);
        wrong += differ;
        rows.push([name.split("/").at(-1)!, peer, String(mine.length), String(differ)]);
        print(`  ${rows.at(-1)!.join("  ")}`);
      }
      print(`\n${table(rows)}\n`);
      results.parity = { documents: text.documents, bytes: text.bytes, works: works.length, mismatches: wrong };
      if (wrong > 0) throw new InputError(`${wrong} texts have other ids than the peers'.`);
    }

    if (parts("encode")) {
      const text = await corpus(o.text, o.megabytes, false, "tokenizers-encode");
      for (const count of threads() > 1 ? [1, threads()] : [1]) {
        for (const { name, expression, peers, javaScript } of [...chosen, ...files]) {
          const work: Work = {
            name: `encode ${name.split("/").at(-1)!}, ${count} thread${count === 1 ? "" : "s"}`,
            parameters: { ...parameters("encode", text.file, count), pattern: name, expression },
            items: { count: text.bytes / 1e6, name: "MB" },
            check: (mine, peer) => {
              if (mine.outputs[0] !== peer.outputs[0]) throw new InputError(`${peer.name} gives other ids.`);
            },
          };
          const env = environmentOf(count);
          const others: Entrant[] = o.alone ? [] : peers.map((peer) => pythonPeer("", "tokenizing", peer, env));
          if (!o.alone && javaScript && count === 1 && process.env.HOWDAH_NODE_PEERS) {
            for (const peer of ["js-tiktoken", "gpt-tokenizer"])
              others.push({ ...ours("tokenizers", peer, env), name: peer });
          }
          const limits = {
            rounds: o.rounds,
            seconds: o.seconds,
            threads: count,
            warmUp: 1,
            hopeless: Number.POSITIVE_INFINITY,
          };
          const found = await runContest(
            "tokenizers",
            [work],
            { ours: ours("tokenizers", "auto", env), peers: others },
            limits,
            context,
          );
          results[work.name] = (found as { readonly results?: unknown }).results;
        }
      }
    }

    if (parts("train") && o.train > 0) {
      machine(print);
      const text = await corpus(o.text, o.train, false, "tokenizers-train");
      const trained: Record<string, unknown> = {};
      for (const kind of o.kinds.split(",")) trained[kind] = await train(kind, text, o, print);
      results.train = { bytes: text.bytes, ...trained };
    }
    return { suite: "tokenizers", ...results };
  },
});

/**
 * Both sides train one kind, once. Merges must give the same vocabulary; Unigram and WordPiece, where tokenizers' own result changes from run
 * to run, one that takes at most 2 % more tokens.
 */
async function train(
  kind: string,
  text: { readonly file: string; readonly bytes: number },
  o: { readonly vocabulary: number; readonly alone: boolean },
  print: (line: string) => void,
): Promise<{ ours: number; peer: number | null }> {
  const p: TokenizerParameters = {
    task: "train",
    file: text.file,
    pattern: kind,
    expression: null,
    threads: threads(),
    vocabulary: o.vocabulary,
  };
  const run = async (who: string, entrant: Entrant) => {
    const { seconds, output, peakBytes } = await once(entrant, p);
    const trained = output as Trained;
    print(
      `train ${kind} ${o.vocabulary} on ${(text.bytes / 1e6).toFixed(0)} MB: ${who} ${seconds.toFixed(2)} s, ` +
        `peak ${(peakBytes / 1e6).toFixed(0)} MB, ${trained.tokens} tokens for 200 texts`,
    );
    return { seconds, ...trained };
  };
  const mine = await run("howdah", ours("tokenizers"));
  if (o.alone) return { ours: mine.seconds, peer: null };
  const theirs = await run("tokenizers", pythonPeer("", "tokenizing", "tokenizers"));
  const same = mine.hash === theirs.hash && mine.size === theirs.size;
  if (!same && (kind === "bpe" || kind === "sentencepiece"))
    throw new InputError(`The trained vocabularies differ: ${JSON.stringify(mine)} and ${JSON.stringify(theirs)}.`);
  if (mine.tokens > 1.02 * theirs.tokens)
    throw new InputError(`Ours of the kind ${kind} takes ${mine.tokens} tokens, theirs ${theirs.tokens}.`);
  const result = same ? "the same vocabulary" : `${(mine.tokens / theirs.tokens).toFixed(3)} of the tokens`;
  print(`  ${(theirs.seconds / mine.seconds).toFixed(1)} times as fast, ${result}`);
  return { ours: mine.seconds, peer: theirs.seconds };
}

/** llama.cpp's own test vectors. */
async function vectorsIn(folder: string, print: (line: string) => void): Promise<number> {
  let count = 0;
  for (const name of (await readdir(folder)).filter((file) => file.endsWith(".gguf")).sort()) {
    const path = join(folder, name);
    const [texts, outputs] = await Promise.all([readFile(`${path}.inp`, "utf8"), readFile(`${path}.out`, "utf8")]);
    const lines = outputs.split("\n");
    const vectors = texts.split("\n__ggml_vocab_test__\n");
    const ids = await encodeMany(await loadTokenizer(path), vectors, { addSpecialTokens: false });
    const wrong = vectors.filter((_, i) => ids[i]!.join(" ") !== lines[i]!.trim());
    if (wrong.length > 0) throw new InputError(`${name}: other ids for ${JSON.stringify(wrong[0])}.`);
    print(`  ${name}: ${vectors.length} vectors of llama.cpp, the same ids`);
    count += vectors.length;
  }
  return count;
}

/** Conversations with and without tools in the templates of a folder, beside transformers. */
async function templatesIn(folder: string, parameters: TokenizerParameters, print: (line: string) => void) {
  interface Case {
    readonly file: string;
    readonly messages: ChatMessage[];
    readonly tools: Record<string, unknown>[] | null;
    readonly prompt: boolean;
    readonly text: string | null;
  }
  const cases = (await once(pythonPeer("", "tokenizing", "transformers"), parameters)).output as Case[];
  const counts = { same: 0, bothRefuse: 0, onlyWeRefuse: 0, onlyTheyRefuse: 0, differ: 0 };
  const said = new Set<string>();
  for (const { file, messages, tools, prompt, text } of cases) {
    let mine: string | null = null;
    let why = "another text";
    try {
      mine = applyChatTemplate(await readFile(join(folder, file), "utf8"), messages, {
        ...(tools === null ? {} : { tools }),
        addGenerationPrompt: prompt,
        bosToken: "<s>",
        eosToken: "</s>",
      });
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      why = error.message;
    }
    if (mine === text) counts[text === null ? "bothRefuse" : "same"]++;
    else {
      counts[mine === null ? "onlyWeRefuse" : text === null ? "onlyTheyRefuse" : "differ"]++;
      const line = `  ${file}: ${text === null ? "transformers refuses" : why}`;
      if (!said.has(line)) print(line);
      said.add(line);
    }
  }
  print(`  ${cases.length} conversations in chat templates: ${JSON.stringify(counts)}`);
  return counts;
}

async function once(
  entrant: Entrant,
  parameters: unknown,
): Promise<{ seconds: number; output: unknown; peakBytes: number }> {
  const contender = entrant.start();
  try {
    await contender.prepare({ work: "once", variant: entrant.variant, parameters });
    const ran = await contender.run(1);
    return { seconds: ran.seconds[0]!, output: ran.outputs[0], peakBytes: ran.peakBytes };
  } finally {
    await contender.close();
  }
}

const idsOf = async (entrant: Entrant, parameters: unknown): Promise<string[]> =>
  (await once(entrant, parameters)).output as string[];
