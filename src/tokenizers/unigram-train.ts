import { InputError } from "../tensor/errors.ts";
import { UnitTrie } from "./unigram.ts";

export interface UnigramTrainingOptions {
  /** Pieces wanted, characters included; fewer come out when the text has no more that repeat. */
  readonly pieces: number;
  /** Characters that must be pieces: those the text is allowed to have. */
  readonly alphabet: ReadonlySet<string>;
  readonly onRound?: (pieces: number) => void;
}

/** Of a piece, in characters. */
export const LONGEST_PIECE = 16;
/** Pieces the first model has at most. */
export const MOST_SEEDS = 1_000_000;
/** Part of the pieces that survives each pruning. */
export const SHRINK = 0.75;

export interface UnigramVocabulary {
  /** Best first. */
  readonly pieces: readonly string[];
  /** Log probabilities. */
  readonly scores: Float64Array;
}

/**
 * Learns a Unigram vocabulary (Kudo 2018, section 3.2) as SentencePiece does: frequent substrings as seeds, rounds of expectation
 * maximisation with Bayesian (digamma) estimates, and pruning of the pieces whose loss costs the likelihood least.
 * @param words how often each pre-token occurs
 * @throws InputError when there is no room for the alphabet
 */
export async function trainUnigram(
  words: ReadonlyMap<string, number>,
  options: UnigramTrainingOptions,
): Promise<UnigramVocabulary> {
  const { pieces: wanted, alphabet, onRound } = options;
  checkRoom(wanted, alphabet.size);
  // A character outside of the alphabet ends a piece: words are cut there.
  const parts = new Map<string, number>();
  for (const [word, count] of words) {
    let start = 0;
    let at = 0;
    const add = (): void => {
      if (at > start) parts.set(word.slice(start, at), (parts.get(word.slice(start, at)) ?? 0) + count);
    };
    for (const character of word) {
      if (!alphabet.has(character)) {
        add();
        start = at + character.length;
      }
      at += character.length;
    }
    add();
  }
  let model = seed(parts, alphabet);
  const desired = Math.max(Math.floor(wanted * 1.1), alphabet.size);
  for (;;) {
    for (let round = 0; round < 2; round++) model = maximise(model, expect(model, parts), alphabet);
    onRound?.(model.pieces.length);
    // Rounds take seconds: what else waits, such as a person who wants to stop, has its turn.
    await new Promise((resolve) => setImmediate(resolve));
    if (model.pieces.length <= desired) break;
    const before = model.pieces.length;
    model = prune(model, parts, alphabet, Math.max(desired, Math.floor(SHRINK * before)));
    if (model.pieces.length === before) break;
  }
  return finish(model, alphabet, wanted);
}

/** @throws InputError when there is no room for the alphabet */
export function checkRoom(pieces: number, alphabet: number): void {
  if (alphabet <= pieces) return;
  throw new InputError(
    `vocabulary: ${pieces} pieces have no room for the ${alphabet} characters of the text. ` +
      "Ask for more, or for less coverage of characters.",
  );
}

interface Model {
  readonly pieces: string[];
  readonly scores: Float64Array;
}

/** Substrings seen twice or more, level by level: one can only be frequent if what it is made of is. */
function seed(words: ReadonlyMap<string, number>, alphabet: ReadonlySet<string>): Model {
  const single = new Map<string, number>([...alphabet].map((character) => [character, 0]));
  for (const [word, count] of words) for (const c of word) single.set(c, single.get(c)! + count);
  const found: [string, number][] = [];
  let previous: ReadonlyMap<string, number> = single;
  for (let length = 2; length <= LONGEST_PIECE; length++) {
    const level = new Map<string, number>();
    for (const [word, count] of words) {
      /** Adds the substring of `length` characters from `start` to `end` whose last one begins at `last`. */
      const add = (start: number, last: number, end: number): void => {
        if (!((previous.get(word.slice(start, last)) ?? 0) >= 2)) return;
        const whole = word.slice(start, end);
        level.set(whole, (level.get(whole) ?? 0) + count);
      };
      if (/[\ud800-\udbff]/.test(word)) {
        const places = [0];
        for (const c of word) places.push(places.at(-1)! + c.length);
        for (let i = length; i < places.length; i++) add(places[i - length]!, places[i - 1]!, places[i]!);
      } else {
        for (let end = length; end <= word.length; end++) add(end - length, end - 1, end);
      }
    }
    for (const [text, count] of level) {
      if (count < 2) level.delete(text);
      else found.push([text, count * length]);
    }
    if (level.size === 0) break;
    previous = level;
  }
  found.sort((a, b) => b[1] - a[1] || byPoints(a[0], b[0]));
  const kept: [string, number][] = [...single, ...found.slice(0, Math.max(0, MOST_SEEDS - single.size))];
  const total = Math.log(kept.reduce((sum, [, score]) => sum + Math.max(score, 1), 0));
  return {
    pieces: kept.map(([text]) => text),
    scores: Float64Array.from(kept, ([, score]) => Math.log(Math.max(score, 1)) - total),
  };
}

/** In the order of code points, which is that of UTF-8: surrogates come last. */
function byPoints(a: string, b: string): number {
  const place = (unit: number): number => (unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800);
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return place(x) - place(y);
  }
  return a.length - b.length;
}

const trieOf = ({ pieces }: Model): UnitTrie => {
  const trie = new UnitTrie();
  pieces.forEach((piece, id) => {
    trie.add(piece, id);
  });
  return trie;
};

const addLogs = (a: number, b: number): number => {
  if (a === Number.NEGATIVE_INFINITY) return b;
  return a > b ? a + Math.log1p(Math.exp(b - a)) : b + Math.log1p(Math.exp(a - b));
};

/** Words of more units than this have probabilities too small for anything but logarithms. */
const LINEAR = 100;
/** And so have shorter words whose probability is below this. */
const LEAST = 1e-250;

/** How often each piece is expected, over all segmentations of each word: forward and backward sums. */
function expect(model: Model, words: ReadonlyMap<string, number>): Float64Array {
  const trie = trieOf(model);
  const { scores } = model;
  const likely = scores.map(Math.exp);
  const expected = new Float64Array(model.pieces.length);
  let forward = new Float64Array(256);
  let backward = new Float64Array(256);
  /** from, to, id of each piece that a word may have there */
  let edges = new Int32Array(1024);
  let size = 0;
  const edgesOf = (word: string): void => {
    const n = word.length;
    size = 0;
    for (let from = 0; from < n; from++) {
      for (let to = from, node = 0; to < n; ) {
        node = trie.step(node, word.charCodeAt(to++));
        if (node === -1) break;
        const id = trie.ids[node]!;
        if (id === -1) continue;
        if (size + 3 > edges.length) {
          const larger = new Int32Array(2 * edges.length);
          larger.set(edges);
          edges = larger;
        }
        edges[size] = from;
        edges[size + 1] = to;
        edges[size + 2] = id;
        size += 3;
      }
    }
  };
  for (const [word, count] of words) {
    const n = word.length;
    if (forward.length <= n) {
      forward = new Float64Array(2 * n);
      backward = new Float64Array(2 * n);
    }
    edgesOf(word);
    if (n <= LINEAR) {
      forward.fill(0, 0, n + 1);
      backward.fill(0, 0, n + 1);
      forward[0] = 1;
      backward[n] = 1;
      for (let e = 0; e < size; e += 3) forward[edges[e + 1]!]! += forward[edges[e]!]! * likely[edges[e + 2]!]!;
      const all = forward[n]!;
      if (all > LEAST) {
        for (let e = size - 3; e >= 0; e -= 3)
          backward[edges[e]!]! += backward[edges[e + 1]!]! * likely[edges[e + 2]!]!;
        const share = count / all;
        for (let e = 0; e < size; e += 3) {
          const id = edges[e + 2]!;
          expected[id]! += share * forward[edges[e]!]! * likely[id]! * backward[edges[e + 1]!]!;
        }
        continue;
      }
    }
    forward.fill(Number.NEGATIVE_INFINITY, 0, n + 1);
    backward.fill(Number.NEGATIVE_INFINITY, 0, n + 1);
    forward[0] = 0;
    backward[n] = 0;
    for (let e = 0; e < size; e += 3) {
      const from = forward[edges[e]!]!;
      const to = edges[e + 1]!;
      if (from !== Number.NEGATIVE_INFINITY) forward[to] = addLogs(forward[to]!, from + scores[edges[e + 2]!]!);
    }
    if (forward[n] === Number.NEGATIVE_INFINITY) continue;
    for (let e = size - 3; e >= 0; e -= 3) {
      const from = edges[e]!;
      const to = backward[edges[e + 1]!]!;
      if (to !== Number.NEGATIVE_INFINITY) backward[from] = addLogs(backward[from]!, to + scores[edges[e + 2]!]!);
    }
    for (let e = 0; e < size; e += 3) {
      const id = edges[e + 2]!;
      const log = forward[edges[e]!]! + scores[id]! + backward[edges[e + 1]!]! - forward[n]!;
      expected[id]! += count * Math.exp(log);
    }
  }
  return expected;
}

/** Derivative of log gamma: asymptotic series after a shift above 7. */
function digamma(x: number): number {
  let result = 0;
  let y = x;
  for (; y < 7; y++) result -= 1 / y;
  y -= 0.5;
  const square = 1 / (y * y);
  return result + Math.log(y) + square * (1 / 24 - square * (7 / 960 - square * (31 / 8064 - (square * 127) / 30720)));
}

/** Pieces expected half a time or more stay, with the estimate that prefers few pieces; characters stay in any case. */
function maximise(model: Model, expected: Float64Array, alphabet: ReadonlySet<string>): Model {
  const pieces: string[] = [];
  const counts: number[] = [];
  model.pieces.forEach((piece, id) => {
    if (expected[id]! < 0.5 && !alphabet.has(piece)) return;
    pieces.push(piece);
    counts.push(Math.max(expected[id]!, 0.5));
  });
  const total = digamma(counts.reduce((sum, count) => sum + count, 0));
  return { pieces, scores: Float64Array.from(counts, (count) => digamma(count) - total) };
}

/** The best path through `text`, without piece `forbidden`; undefined if there is none. */
function viterbi(
  model: Model,
  trie: UnitTrie,
  text: string,
  forbidden: number,
): { ids: number[]; score: number } | undefined {
  const n = text.length;
  const best = new Float64Array(n + 1).fill(Number.NEGATIVE_INFINITY);
  const from = new Int32Array(n + 1);
  const piece = new Int32Array(n + 1);
  best[0] = 0;
  for (let start = 0; start < n; start++) {
    if (best[start] === Number.NEGATIVE_INFINITY) continue;
    for (let end = start, node = 0; end < n; ) {
      node = trie.step(node, text.charCodeAt(end++));
      if (node === -1) break;
      const id = trie.ids[node]!;
      if (id === -1 || id === forbidden) continue;
      const score = best[start]! + model.scores[id]!;
      if (score > best[end]!) {
        best[end] = score;
        from[end] = start;
        piece[end] = id;
      }
    }
  }
  if (best[n] === Number.NEGATIVE_INFINITY) return undefined;
  const ids: number[] = [];
  for (let end = n; end > 0; end = from[end]!) ids.push(piece[end]!);
  return { ids, score: best[n]! };
}

/** Drops pieces until `size` are left: first those that are cut up anyway, then those whose replacement costs the likelihood least. */
function prune(model: Model, words: ReadonlyMap<string, number>, alphabet: ReadonlySet<string>, size: number): Model {
  const trie = trieOf(model);
  const counts = new Float64Array(model.pieces.length);
  let total = 0;
  for (const [word, count] of words) {
    for (const id of viterbi(model, trie, word, -1)?.ids ?? []) {
      counts[id] = counts[id]! + count;
      total += count;
    }
  }
  const logTotal = Math.log(total);
  const kept: number[] = [];
  const candidates: { id: number; loss: number }[] = [];
  model.pieces.forEach((piece, id) => {
    if (alphabet.has(piece)) {
      kept.push(id);
      return;
    }
    const other = viterbi(model, trie, piece, id);
    if (other === undefined) {
      kept.push(id);
      return;
    }
    const count = counts[id]!;
    if (other.score > model.scores[id]! || count === 0) return;
    const logOther = Math.log(total + count * (other.ids.length - 1));
    const replaced = other.ids.reduce((sum, alternative) => sum + Math.log(counts[alternative]! + count) - logOther, 0);
    candidates.push({ id, loss: (count / total) * (Math.log(count) - logTotal - replaced) });
  });
  candidates.sort((a, b) => b.loss - a.loss || a.id - b.id);
  for (const { id } of candidates) {
    if (kept.length >= size) break;
    kept.push(id);
  }
  kept.sort((a, b) => a - b);
  return { pieces: kept.map((id) => model.pieces[id]!), scores: Float64Array.from(kept, (id) => model.scores[id]!) };
}

/** All characters, and the best of the rest; best first. */
function finish(model: Model, alphabet: ReadonlySet<string>, wanted: number): UnigramVocabulary {
  const entries = model.pieces.map((piece, id) => ({ piece, score: model.scores[id]! }));
  const better = (a: { piece: string; score: number }, b: { piece: string; score: number }): number =>
    b.score - a.score || byPoints(a.piece, b.piece);
  const characters = entries.filter(({ piece }) => alphabet.has(piece));
  const others = entries.filter(({ piece }) => !alphabet.has(piece)).sort(better);
  const all = [...characters, ...others.slice(0, Math.max(0, wanted - characters.length))].sort(better);
  return { pieces: all.map(({ piece }) => piece), scores: Float64Array.from(all, ({ score }) => score) };
}
