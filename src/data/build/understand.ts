import { wordsOf } from "../clean/words.ts";
import { hashBits, uniform } from "../random.ts";

export interface Ranked {
  readonly word: string;
  readonly score: number;
}
export interface Topic {
  readonly share: number;
  readonly words: readonly string[];
}

const english = new Set(
  (
    "a about above after again all also am an and any are as at be because been before being below between both but by can could did do does doing down during each even " +
    "few for from further get got had has have having he her here hers him his how i if in into is it its just like made make many may me might more most much must my new no nor " +
    "not now of off on once one only or other our out over own said same say says she should so some such than that the their them then there these they this those through to too two " +
    "under until up upon us use used very was way we well were what when where which while who whom why will with would you your yours s t re ve ll d m"
  ).split(" "),
);
const chinese = new Set(
  "的 了 是 在 和 有 我 不 他 也 这 那 就 都 而 及 与 着 或 一个 没有 我们 你们 他们 它们 你 她 它 之 其 以 于 为 被 从 到 对 把 让 向 由 并 但 但是 因为 所以 如果 可以 已经 会 要 能 很 更 最 又 还 再 上 下 中 里 等 个 年 月 日 一 二 三 这个 那个 什么 自己 这样 进行 通过 以及 之后 时候 可能 需要 使用".split(
    " ",
  ),
);
/** What is left of "don't" and "it's" when words are cut. */
const clitic = /^n?['’]|^n['’]t$/u;
const content = /^\p{L}[\p{L}\p{M}\p{N}'’-]*$/u;

/** Words that say something: no signs, numbers, single letters or common words; lower case. */
export function contentWords(text: string, language: string): string[] {
  const zh = /^(zh|ja)/.test(language);
  const out: string[] = [];
  for (const word of wordsOf(text, language)) {
    const w = word.toLowerCase();
    if (w.length < (zh ? 2 : 3) || !content.test(w) || clitic.test(w) || english.has(w) || chinese.has(w)) continue;
    out.push(w);
  }
  return out;
}

/** Words by the sum of tf-idf over all documents, tf as log(1 + count) (Salton & Buckley 1988); words of one document only are left out. */
export function tfIdf(documents: readonly (readonly string[])[], most: number): Ranked[] {
  const inDocuments = new Map<string, number>();
  for (const d of documents) for (const w of new Set(d)) inDocuments.set(w, (inDocuments.get(w) ?? 0) + 1);
  const scores = new Map<string, number>();
  for (const d of documents) {
    const counts = new Map<string, number>();
    for (const w of d) counts.set(w, (counts.get(w) ?? 0) + 1);
    for (const [w, n] of counts) {
      const seen = inDocuments.get(w)!;
      if (seen < 2 && documents.length > 3) continue;
      const idf = Math.log((1 + documents.length) / (1 + seen)) + 1;
      scores.set(w, (scores.get(w) ?? 0) + (Math.log(1 + n) * idf) / Math.max(1, Math.log(1 + d.length)));
    }
  }
  return rank(scores, most);
}

/** Words by PageRank over the graph of words that stand within four of each other (Mihalcea & Tarau 2004, TextRank). */
export function textRank(documents: readonly (readonly string[])[], most: number): Ranked[] {
  const frequent = new Map<string, number>();
  for (const d of documents) for (const w of d) frequent.set(w, (frequent.get(w) ?? 0) + 1);
  // The graph of a whole corpus is too large; a word outside of the most frequent is no keyword.
  const words = rank(frequent, 2000).map((r) => r.word);
  const index = new Map(words.map((w, i) => [w, i]));
  const edges: Map<number, number>[] = words.map(() => new Map());
  for (const d of documents)
    for (let i = 0; i < d.length; i++) {
      const a = index.get(d[i]!);
      if (a === undefined) continue;
      for (let k = i + 1; k < Math.min(i + 4, d.length); k++) {
        const b = index.get(d[k]!);
        if (b === undefined || b === a) continue;
        edges[a]!.set(b, (edges[a]!.get(b) ?? 0) + 1);
        edges[b]!.set(a, (edges[b]!.get(a) ?? 0) + 1);
      }
    }
  const weights = edges.map((e) => [...e.values()].reduce((a, b) => a + b, 0));
  let scores = new Float64Array(words.length).fill(1);
  for (let round = 0; round < 30; round++) {
    const next = new Float64Array(words.length).fill(0.15);
    edges.forEach((e, i) => {
      for (const [k, w] of e) next[k]! += (0.85 * scores[i]! * w) / weights[i]!;
    });
    scores = next;
  }
  return rank(new Map(words.map((w, i) => [w, scores[i]!])), most);
}

const rank = (scores: ReadonlyMap<string, number>, most: number): Ranked[] =>
  [...scores]
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .slice(0, most)
    .map(([word, score]) => ({ word, score }));

/**
 * Topics by latent Dirichlet allocation (Blei et al. 2003), collapsed Gibbs sampling (Griffiths & Steyvers 2004), alpha 50 / topics and beta 0.01. The same
 * documents and seed give the same topics.
 */
export function lda(documents: readonly (readonly string[])[], topics: number, seed: number, rounds = 60): Topic[] {
  const frequent = new Map<string, number>();
  for (const d of documents) for (const w of new Set(d)) frequent.set(w, (frequent.get(w) ?? 0) + 1);
  // A word in one document only, or in more than half of them, tells topics apart badly.
  const usable = rank(frequent, 20_000).filter(({ score }) => score > 1 && score <= Math.max(2, documents.length / 2));
  const index = new Map(usable.slice(0, 5000).map(({ word }, i) => [word, i]));
  const words = [...index.keys()];
  if (words.length < topics || topics === 0) return [];
  const tokens: number[] = [];
  const owners: number[] = [];
  documents.forEach((d, i) => {
    for (const w of d) {
      const k = index.get(w);
      if (k === undefined) continue;
      tokens.push(k);
      owners.push(i);
    }
  });
  const alpha = 50 / topics / 10;
  const beta = 0.01;
  const inTopic = new Uint32Array(topics);
  const wordTopic = new Uint32Array(words.length * topics);
  const documentTopic = new Uint32Array(documents.length * topics);
  const assigned = Uint16Array.from(tokens, (_, i) => hashBits(seed, i) % topics);
  const move = (i: number, topic: number, by: 1 | -1) => {
    inTopic[topic]! += by;
    wordTopic[tokens[i]! * topics + topic]! += by;
    documentTopic[owners[i]! * topics + topic]! += by;
  };
  assigned.forEach((t, i) => {
    move(i, t, 1);
  });
  const sums = new Float64Array(topics);
  for (let round = 0; round < rounds; round++)
    for (let i = 0; i < tokens.length; i++) {
      move(i, assigned[i]!, -1);
      let sum = 0;
      for (let t = 0; t < topics; t++) {
        sum +=
          ((wordTopic[tokens[i]! * topics + t]! + beta) / (inTopic[t]! + beta * words.length)) *
          (documentTopic[owners[i]! * topics + t]! + alpha);
        sums[t] = sum;
      }
      const x = uniform(seed, round, i) * sum;
      let t = 0;
      while (t < topics - 1 && sums[t]! < x) t++;
      assigned[i] = t;
      move(i, t, 1);
    }
  return Array.from({ length: topics }, (_, t) => ({
    share: inTopic[t]! / Math.max(tokens.length, 1),
    words: rank(new Map(words.map((w, k) => [w, wordTopic[k * topics + t]!])), 10)
      .filter((r) => r.score > 0)
      .map((r) => r.word),
  })).sort((a, b) => b.share - a.share);
}
