import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { EpochWindows, Shards } from "../data/shards.ts";
import { sha256 } from "../data/text.ts";
import type { TokenSource } from "../data/token-file.ts";
import type { Recipe } from "../recipe/index.ts";
import { writeFileAtomic, writeFolderAtomic } from "../runs/atomic.ts";
import type { Run } from "../runs/run.ts";
import { InputError } from "../tensor/errors.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizers/index.ts";
import type { Material } from "./workshop.ts";

/**
 * The token shards of a corpus that `howdah data build` made, read from disk where they are needed. The tokenizer is the corpus's own, held to the hash and the
 * vocabulary in the shards' indexes. The run keeps the shards' hashes and goes on only with the same ones.
 * @throws InputError when the parts of the corpus do not fit together, or have changed since the run began
 */
export async function openCorpus(run: Run, recipe: Recipe, folder: string): Promise<Material> {
  const tokenizer = await tokenizerOf(run, folder);
  const { vocabularySize: vocabulary } = tokenizer;
  const shards = join(folder, "shards");
  // All of a corpus is hashed once, when a run begins; later only its size and its indexes are looked at.
  const known = join(run.path, "corpus.json");
  const verify = !existsSync(known);
  const train = new Shards(shards, { vocabulary, verify });
  const heldOut = openHeldOut(shards, vocabulary, verify);
  const close = () => {
    train.close();
    heldOut.close();
  };
  try {
    const files = [...train.files, ...heldOut.files];
    checkTokenizer(folder, run, tokenizer, files);
    const hashes = files.map(({ index }) => index.sha256);
    if (verify) writeFileAtomic(known, `${JSON.stringify({ corpus: folder, shards: hashes })}\n`);
    else if (
      JSON.stringify(hashes) !== JSON.stringify((JSON.parse(readFileSync(known, "utf8")) as { shards: unknown }).shards)
    )
      throw new InputError(
        `${folder}: the corpus is not the one that this run began with: its shards were built anew. Begin a new run, or put the shards back.`,
      );
    const { reader = 0, readers = 1 } = recipe.data;
    return {
      documents: { train: [], heldOut: [] },
      tokenizer,
      tokens: {
        train,
        heldOut,
        heldOutBytes: bytesOf(tokenizer, heldOut),
        windows: (rows, length) => new EpochWindows(train, { rows, length, seed: recipe.seed, reader, readers }),
      },
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

function openHeldOut(shards: string, vocabulary: number, verify: boolean): Shards {
  if (!existsSync(join(shards, "holdout-00000.bin")))
    throw new InputError(
      `${shards}: nothing was held out of this corpus, so that no loss can be measured. Build it with mix: { holdout: 1% }.`,
    );
  return new Shards(shards, { prefix: "holdout", vocabulary, verify });
}

/** The run's copy; the corpus's own, copied, when the run begins. */
async function tokenizerOf(run: Run, corpus: string): Promise<Tokenizer> {
  const folder = join(run.path, "tokenizer");
  if (existsSync(folder)) return await loadTokenizer(folder);
  const tokenizer = await loadTokenizer(join(corpus, "tokenizer"));
  await writeFolderAtomic(folder, (path) => tokenizer.save(path));
  return tokenizer;
}

function checkTokenizer(corpus: string, run: Run, { vocabularySize }: Tokenizer, files: Shards["files"]): void {
  for (const { index } of files)
    if (index.vocabulary !== vocabularySize)
      throw new InputError(
        `${corpus}: the tokenizer has ${vocabularySize} tokens, but the shards were made with ${index.vocabulary}. Build the corpus again.`,
      );
  const wanted = new Set(files.flatMap(({ index }) => index.tokenizer ?? []));
  for (const folder of [join(corpus, "tokenizer"), join(run.path, "tokenizer")]) {
    const found = sha256(readFileSync(join(folder, "tokenizer.json")));
    for (const hash of wanted)
      if (hash !== found)
        throw new InputError(
          `${join(folder, "tokenizer.json")} is not the tokenizer that the shards of ${corpus} were made with: the same ids would be other text. Build the corpus again, or put the tokenizer back.`,
        );
  }
}

/** Bytes of the text that tokens stand for. */
function bytesOf(tokenizer: Tokenizer, source: TokenSource): number {
  return source.starts.reduce((sum, start, i) => {
    const ids = source.read(start, (source.starts[i + 1] ?? source.length) - start);
    return sum + Buffer.byteLength(tokenizer.decode([...ids], { skipSpecialTokens: true }));
  }, 0);
}
