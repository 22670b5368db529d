import type { ChatMessage } from "../tokenizers/chat-template.ts";

/** One speech of a play. */
export interface Turn {
  readonly speaker: string;
  readonly text: string;
}

/** A conversation to learn from: the last message is the reply. */
export interface Conversation {
  readonly messages: readonly ChatMessage[];
}

/** "NAME:" alone on a line: starts with a capital, no sentence (at most 40 characters, no full stop inside). */
const HEADER = /^(\p{Lu}[^:\n.!?]{0,39}):[ \t]*$/u;

/**
 * The speeches of a play written as `NAME:`, its lines, a blank line (the form of tinyshakespeare). A paragraph without a name goes
 * on with the speech before it; what stands before the first name, and names without a speech, are left out.
 */
export function parsePlay(text: string): Turn[] {
  const turns: Turn[] = [];
  for (const block of text.split(/\n[ \t]*\n+/)) {
    const lines = block.split("\n").filter((line) => line.trim() !== "");
    const speaker = HEADER.exec(lines[0] ?? "")?.[1];
    const speech = (speaker === undefined ? lines : lines.slice(1)).map((line) => line.trimEnd()).join("\n");
    if (speech === "") continue;
    const last = turns.at(-1);
    if (speaker !== undefined) turns.push({ speaker, text: speech });
    else if (last !== undefined) turns[turns.length - 1] = { ...last, text: `${last.text}\n${speech}` };
  }
  return turns;
}

/** Whether a text is a play in this form: most of its paragraphs are speeches, and at least two people speak. */
export function holdsDialogue(text: string): boolean {
  const blocks = text.split(/\n[ \t]*\n+/).filter((block) => block.trim() !== "");
  const speakers = blocks
    .map((block) => HEADER.exec(block.trim().split("\n", 1)[0]!)?.[1])
    .filter((name) => name !== undefined);
  return speakers.length * 2 > blocks.length && new Set(speakers).size >= 2 && speakers.length >= 4;
}

export interface SceneOptions {
  /** Speeches looked at on either side of a place. Default 5. */
  readonly window?: number;
}

/**
 * Scenes, as far as the speeches tell: a place where nobody of the next speeches was among the last ones' speakers is taken for a
 * change of scene. (tinyshakespeare marks neither acts nor scenes.) Changes of scene that keep a speaker on stage are not found,
 * which leaves a few pairs of speeches that do not answer each other.
 */
export function splitScenes(turns: readonly Turn[], { window = 5 }: SceneOptions = {}): Turn[][] {
  const scenes: Turn[][] = [];
  let start = 0;
  for (let i = 1; i <= turns.length; i++) {
    if (i < turns.length) {
      const before = new Set(turns.slice(Math.max(start, i - window), i).map((turn) => turn.speaker));
      if (turns.slice(i, i + window).some((turn) => before.has(turn.speaker))) continue;
    }
    scenes.push(turns.slice(start, i));
    start = i;
  }
  return scenes.filter((scene) => scene.length > 0);
}

export interface PlayOptions {
  /** A name that is silent for more speeches than this is taken for another person of the same name. Default 400. */
  readonly silence?: number;
  /** A shorter part is joined to the one after it. Default 100 speeches. */
  readonly minimum?: number;
}

/**
 * Plays, by who speaks: a boundary is a place that no named person's speeches span. Names count if they are written in capitals
 * (ROMEO; "First Citizen" and "Messenger" occur in every play) and speak at least three times; a silence of `silence` speeches ends
 * a person, since plays share names (JULIET is in two). Plays that share many people stay one part (the histories of the same kings),
 * so parts have their own characters, which is what keeps a judge apart from what it judges.
 *
 * On tinyshakespeare, which has no titles, this gives eight parts, the same for any `silence` from 300 to 600.
 */
export function splitPlays(turns: readonly Turn[], { silence = 400, minimum = 100 }: PlayOptions = {}): Turn[][] {
  const spoken = new Map<string, number[]>();
  turns.forEach(({ speaker }, i) => {
    if (speaker !== speaker.toUpperCase()) return;
    const places = spoken.get(speaker);
    if (places === undefined) spoken.set(speaker, [i]);
    else places.push(i);
  });

  // spans[i]: how many people speak both before and from turn i on, as differences that are summed below.
  const change = new Int32Array(turns.length + 1);
  for (const places of spoken.values()) {
    if (places.length < 3) continue;
    for (let k = 1; k < places.length; k++) {
      if (places[k]! - places[k - 1]! > silence) continue;
      change[places[k - 1]! + 1]! += 1;
      change[places[k]! + 1]! -= 1;
    }
  }
  // Who speaks from here to the next boundary; minor speakers between two plays go with the first.
  const starts = [0];
  let people = 0;
  let named = false;
  for (let i = 1; i < turns.length; i++) {
    people += change[i]!;
    named ||= people > 0;
    if (people === 0 && named && change[i + 1]! > 0) {
      starts.push(i);
      named = false;
    }
  }
  const parts = starts.map((start, k) => turns.slice(start, starts[k + 1] ?? turns.length));
  const joined: Turn[][] = [];
  let carried: Turn[] = [];
  for (const part of parts) {
    carried = [...carried, ...part];
    if (carried.length < minimum) continue;
    joined.push(carried);
    carried = [];
  }
  if (carried.length > 0) joined[Math.max(0, joined.length - 1)] = [...(joined.at(-1) ?? []), ...carried];
  return joined;
}

export interface ReplyOptions extends SceneOptions {
  /** Speeches before the reply that are kept, at most. Default 1. */
  readonly context?: number;
  /** Speeches with more characters are not used. Default 1000. */
  readonly longest?: number;
}

/**
 * Reply pairs: within a scene, each speech that follows another person's. The reply is the assistant's, in the name of its speaker;
 * what was said before is the user's (or the assistant's, where the same person spoke).
 */
export function replyPairs(turns: readonly Turn[], options: ReplyOptions = {}): Conversation[] {
  const { context = 1, longest = 1000 } = options;
  const pairs: Conversation[] = [];
  for (const scene of splitScenes(turns, options)) {
    for (let i = 1; i < scene.length; i++) {
      const reply = scene[i]!;
      const said = scene.slice(Math.max(0, i - context), i);
      if (said.at(-1)!.speaker === reply.speaker) continue;
      if ([reply, ...said].some((turn) => turn.text.length > longest)) continue;
      pairs.push({
        messages: [...said, reply].map(({ speaker, text }) => ({
          role: speaker === reply.speaker ? "assistant" : "user",
          name: speaker,
          content: text,
        })),
      });
    }
  }
  return pairs;
}

export interface ContinuationOptions {
  /** Paragraphs with fewer characters are left out. Default 60. */
  readonly shortest?: number;
  /** Longer paragraphs are cut at sentences into parts of about this many characters. Default 600. */
  readonly longest?: number;
}

/** Ends of sentences, Western and Chinese, with the quotation marks and spaces that close them. */
const SENTENCE_END = /(?:[.!?…]+["'”’)\]]*\s+|[。！？…]+[」』”’）]*|\n)/gu;

/**
 * Pairs made of any text: the first half of a paragraph (the user's) and how it goes on (the assistant's), cut at the end of the
 * sentence nearest to the middle, or between words where it is one sentence.
 */
export function continuationPairs(text: string, options: ContinuationOptions = {}): Conversation[] {
  const { shortest = 60, longest = 600 } = options;
  return text
    .split(/\n[ \t]*\n+/)
    .map((paragraph) => paragraph.trim())
    .flatMap((paragraph) => pieces(paragraph, longest))
    .filter((piece) => piece.length >= shortest)
    .flatMap((piece) => {
      const cut = cutBetweenSentences(piece, piece.length / 2, piece.length / 4);
      const [prompt, reply] = [piece.slice(0, cut).trim(), piece.slice(cut).trim()];
      if (prompt === "" || reply === "") return [];
      return [
        {
          messages: [
            { role: "user", content: prompt },
            { role: "assistant", content: reply },
          ],
        },
      ];
    });
}

function pieces(paragraph: string, longest: number): string[] {
  const parts: string[] = [];
  let rest = paragraph;
  while (rest.length > longest) {
    const cut = cutBetweenSentences(rest, longest * 0.75, longest * 0.25);
    parts.push(rest.slice(0, cut).trim());
    rest = rest.slice(cut).trim();
  }
  return [...parts, rest];
}

/** The position nearest to `target`, at most `reach` away, that ends a sentence; else a word; else a character. */
function cutBetweenSentences(text: string, target: number, reach: number): number {
  const window = text.slice(0, Math.ceil(target + reach) + 1);
  for (const pattern of [SENTENCE_END, /\s+/gu]) {
    const ends = [...window.matchAll(pattern)].map((found) => found.index + found[0].length);
    const near = ends.filter((end) => Math.abs(end - target) <= reach && end < text.length);
    const best = near.sort((a, b) => Math.abs(a - target) - Math.abs(b - target))[0];
    if (best !== undefined) return best;
  }
  const at = Math.round(target);
  const unit = text.charCodeAt(at);
  return unit >= 0xdc00 && unit <= 0xdfff ? at - 1 : at;
}

/** Conversations to learn from and others that only a judge may learn from. */
export interface JudgeSplit<T> {
  readonly own: readonly T[];
  readonly judge: readonly T[];
}

/**
 * Sets whole parts (plays, documents) aside for the judge: the choice whose size is nearest to `fraction` of all, the first such choice
 * among equals. With a single part, its last `fraction` is set aside.
 * @param parts what belongs together, such as the turns of each play
 */
export function setAsideForJudge<T>(parts: readonly (readonly T[])[], fraction: number): JudgeSplit<T> {
  const only = parts[0];
  if (parts.length === 1 && only !== undefined) {
    const cut = Math.round(only.length * (1 - fraction));
    return { own: only.slice(0, cut), judge: only.slice(cut) };
  }
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  const chosen = nearestSum(
    parts.map((part) => part.length),
    total * fraction,
  );
  return {
    own: parts.filter((_, i) => !chosen.has(i)).flat(),
    judge: parts.filter((_, i) => chosen.has(i)).flat(),
  };
}

/** Indices whose sizes add up to nearly `target`, never to everything: all subsets of few parts, the largest first of many. */
function nearestSum(sizes: readonly number[], target: number): Set<number> {
  if (sizes.length > 16) {
    const chosen = new Set<number>();
    let left = target;
    for (const i of sizes.map((_, k) => k).sort((a, b) => sizes[b]! - sizes[a]! || a - b)) {
      if (sizes[i]! > left || chosen.size === sizes.length - 1) continue;
      chosen.add(i);
      left -= sizes[i]!;
    }
    return chosen;
  }
  let best = 0;
  let bestError = Number.POSITIVE_INFINITY;
  for (let subset = 1; subset < 2 ** sizes.length - 1; subset++) {
    const sum = sizes.reduce((all, size, i) => all + ((subset >> i) & 1 ? size : 0), 0);
    if (Math.abs(sum - target) < bestError) {
      best = subset;
      bestError = Math.abs(sum - target);
    }
  }
  return new Set(sizes.map((_, i) => i).filter((i) => (best >> i) & 1));
}
