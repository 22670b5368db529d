import { InputError } from "../tensor/errors.ts";
import { BYTE_TO_CHARACTER, encodeUtf8 } from "./bytes.ts";
import { PairTable } from "./pair-table.ts";

/** The result of training: strings by id, and the merges in the order they were learnt. */
export interface BpeModel {
  /** Token strings; the index is the id. */
  readonly tokens: readonly string[];
  /** Pairs of ids, best first, and the id each one makes. */
  readonly merges: readonly { readonly left: number; readonly right: number; readonly id: number }[];
}

export interface BpeTrainingOptions {
  /** Ids wanted in all: special tokens, 256 bytes, merges. Fewer come out when the text runs out of repeating pairs. */
  readonly vocabulary: number;
  /** Take ids 0, 1, ... in this order. */
  readonly specialTokens?: readonly string[];
  /** A pair seen less often than this is not merged. Default 0: any pair that occurs. */
  readonly minFrequency?: number;
}

/** A pair waiting to be merged. `count` may be out of date, which is found out when the entry comes to the top. */
interface Candidate {
  count: number;
  readonly left: number;
  readonly right: number;
  /** Words that contain the pair (or did), ascending. */
  readonly words: number[];
}

/** Most frequent first; among equals the smaller ids first. */
const before = (a: Candidate, b: Candidate): boolean =>
  a.count !== b.count ? a.count > b.count : a.left !== b.left ? a.left < b.left : a.right < b.right;

class CandidateQueue {
  private readonly heap: Candidate[] = [];

  push(entry: Candidate): void {
    const { heap } = this;
    let i = heap.length;
    heap.push(entry);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(entry, heap[parent]!)) break;
      heap[i] = heap[parent]!;
      i = parent;
    }
    heap[i] = entry;
  }

  pop(): Candidate | undefined {
    const { heap } = this;
    const top = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}

/**
 * Learns byte-pair merges (Sennrich et al. 2016, algorithm 1) from counted words, with incremental pair counts.
 *
 * Which pair goes first among equally frequent ones decides the ids, so it follows `BpeTrainer` of Hugging Face `tokenizers`: the
 * count, then the smaller pair of ids. Two more of its habits matter for equal files: a merge whose string is already in the
 * vocabulary reuses that id and costs no place, and a pair learnt twice keeps its later rank.
 *
 * @param words how often each pre-token occurs
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export function trainBpe(words: ReadonlyMap<string, number>, options: BpeTrainingOptions): BpeModel {
  const { vocabulary, specialTokens = [], minFrequency = 0 } = options;
  const { tokens, byteIds } = initialVocabulary(vocabulary, specialTokens);
  const symbols = Array.from(words.keys(), (word) => Int32Array.from(encodeUtf8(word), (byte) => byteIds[byte]!));
  return learnMerges(symbols, Float64Array.from(words.values()), { tokens, vocabulary, minFrequency });
}

export interface MergeOptions {
  /** Strings of the ids that exist before the first merge. */
  readonly tokens: readonly string[];
  readonly vocabulary: number;
  readonly minFrequency: number;
  /** What the second part of a merge loses when it is joined to the first ("##" for WordPiece). */
  readonly prefix?: string;
}

/**
 * The learning itself, from words that are symbols already.
 * @param encoded ids of each word
 * @param counts how often each word occurs
 */
export function learnMerges(encoded: readonly Int32Array[], counts: Float64Array, options: MergeOptions): BpeModel {
  const { vocabulary, minFrequency, prefix = "" } = options;
  const tokens = [...options.tokens];
  const ids = new Map(tokens.map((token, id) => [token, id]));

  // All words in one array, each a run [start, start + length) of symbols that shrinks in place as pairs merge.
  const starts = new Int32Array(encoded.length);
  const lengths = new Int32Array(encoded.length);
  let total = 0;
  for (let w = 0; w < encoded.length; w++) {
    starts[w] = total;
    lengths[w] = encoded[w]!.length;
    total += encoded[w]!.length;
  }
  const symbols = new Int32Array(total);
  for (let w = 0; w < encoded.length; w++) symbols.set(encoded[w]!, starts[w]!);

  // Pairs have a number; `pairCounts` holds how often each occurs now, `fresh` the words of pairs that appeared in this step.
  const pairNumbers = new PairTable(4096);
  const pairCounts: number[] = [];
  const pairLeft: number[] = [];
  const pairRight: number[] = [];
  let fresh = new Map<number, number[]>();
  const numberOf = (left: number, right: number): number => {
    let n = pairNumbers.get(left, right);
    if (n === -1) {
      n = pairCounts.length;
      pairNumbers.set(left, right, n);
      pairCounts.push(0);
      pairLeft.push(left);
      pairRight.push(right);
    }
    return n;
  };
  const gain = (left: number, right: number, word: number): void => {
    const n = numberOf(left, right);
    pairCounts[n] = pairCounts[n]! + counts[word]!;
    const list = fresh.get(n);
    if (list === undefined) fresh.set(n, [word]);
    else if (list[list.length - 1] !== word) list.push(word);
  };
  const lose = (left: number, right: number, word: number): void => {
    const n = numberOf(left, right);
    pairCounts[n] = pairCounts[n]! - counts[word]!;
  };

  const queue = new CandidateQueue();
  const enqueueFresh = (): void => {
    for (const [n, list] of fresh) {
      if (pairCounts[n]! > 0)
        queue.push({ count: pairCounts[n]!, left: pairLeft[n]!, right: pairRight[n]!, words: list });
    }
    fresh = new Map();
  };

  for (let w = 0; w < encoded.length; w++) {
    const start = starts[w]!;
    for (let i = 1; i < lengths[w]!; i++) gain(symbols[start + i - 1]!, symbols[start + i]!, w);
  }
  enqueueFresh();

  const merges: { left: number; right: number; id: number }[] = [];
  while (tokens.length < vocabulary) {
    const top = queue.pop();
    if (top === undefined) break;
    const now = pairCounts[numberOf(top.left, top.right)]!;
    if (top.count !== now) {
      if (now > 0) {
        top.count = now;
        queue.push(top);
      }
      continue;
    }
    if (top.count < minFrequency) break;

    const string = joinedToken(tokens[top.left]!, tokens[top.right]!, prefix);
    let id = ids.get(string);
    if (id === undefined) {
      id = tokens.length;
      tokens.push(string);
      ids.set(string, id);
    }
    merges.push({ left: top.left, right: top.right, id });

    for (const w of top.words) {
      const start = starts[w]!;
      const end = start + lengths[w]!;
      let write = start;
      let read = start;
      while (read < end) {
        if (read + 1 < end && symbols[read] === top.left && symbols[read + 1] === top.right) {
          if (write > start) {
            lose(symbols[write - 1]!, top.left, w);
            gain(symbols[write - 1]!, id, w);
          }
          if (read + 2 < end) {
            lose(top.right, symbols[read + 2]!, w);
            gain(id, symbols[read + 2]!, w);
          }
          symbols[write++] = id;
          read += 2;
        } else {
          symbols[write++] = symbols[read++]!;
        }
      }
      lengths[w] = write - start;
    }
    enqueueFresh();
  }

  return { tokens, merges: lastPlaces(merges) };
}

/** The string that a merge makes. */
export const joinedToken = (left: string, right: string, prefix: string): string =>
  left + (prefix !== "" && right.startsWith(prefix) ? right.slice(prefix.length) : right);

type Merge = BpeModel["merges"][number];

/** A pair learnt twice keeps its later place only. */
export function lastPlaces(merges: readonly Merge[]): Merge[] {
  const lastPlace = new Map(merges.map((m, i) => [`${m.left} ${m.right}`, i]));
  return merges.filter((m, i) => lastPlace.get(`${m.left} ${m.right}`) === i);
}

/**
 * The tokens that are there before the first merge: special ones, then the bytes.
 * @throws InputError when `vocabulary` has no room for them
 */
export function initialVocabulary(vocabulary: number, specialTokens: readonly string[]) {
  const tokens: string[] = [];
  const ids = new Map<string, number>();
  const add = (token: string): number => {
    const known = ids.get(token);
    if (known !== undefined) return known;
    ids.set(token, tokens.length);
    tokens.push(token);
    return tokens.length - 1;
  };
  for (const token of specialTokens) {
    if (token === "") throw new InputError("specialTokens: a special token is the empty string. Give it a name.");
    if (ids.has(token)) throw new InputError(`specialTokens: ${JSON.stringify(token)} is given twice.`);
    add(token);
  }
  // The bytes in the order of their characters, which is how `tokenizers` sorts its alphabet.
  for (const character of [...BYTE_TO_CHARACTER].sort((a, b) => a.charCodeAt(0) - b.charCodeAt(0))) add(character);
  if (!Number.isInteger(vocabulary) || vocabulary < tokens.length) {
    throw new InputError(
      `vocabulary: ${vocabulary} has no room for ${specialTokens.length} special tokens and the 256 bytes. ` +
        `Use a whole number of at least ${tokens.length}.`,
    );
  }
  const byteIds = Int32Array.from(BYTE_TO_CHARACTER, (character) => ids.get(character)!);
  return { tokens, ids, byteIds };
}
