import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import {
  continuationPairs,
  holdOut,
  holdsDialogue,
  pairsOf,
  parsePlay,
  readText,
  replyPairs,
  type SourceText,
  setAsideForJudge,
  splitPlays,
  splitScenes,
  type Turn,
} from "../../src/data/index.ts";

const play = `Before the names.

ROMEO:
But, soft! what light
through yonder window breaks?

JULIET:
Ay me!

ROMEO:

First Citizen:
We know: this is not a name:
and goes on.

and a paragraph without a name
`;

let shakespeare: SourceText[];
beforeAll(async () => {
  shakespeare = await readText(fileURLToPath(new URL("../../data/tinyshakespeare.txt", import.meta.url)));
});

describe("a play", () => {
  test("is read speech by speech", () => {
    expect(parsePlay(play)).toEqual([
      { speaker: "ROMEO", text: "But, soft! what light\nthrough yonder window breaks?" },
      { speaker: "JULIET", text: "Ay me!" },
      { speaker: "First Citizen", text: "We know: this is not a name:\nand goes on.\nand a paragraph without a name" },
    ]);
    expect(holdsDialogue(play)).toBe(true);
    expect(holdsDialogue(play.replaceAll("JULIET", "ROMEO").replace("First Citizen", "ROMEO"))).toBe(false); // one person alone
    expect(holdsDialogue("# Title\n\nA paragraph.\n\nAnother one:\nwith a list")).toBe(false);
  });

  test("no word of tinyshakespeare's speeches is lost", () => {
    const text = shakespeare[0]!.text;
    expect(holdsDialogue(text)).toBe(true);
    const turns = parsePlay(text);
    expect(turns.length).toBe(7097);
    const words = (s: string): number => s.split(/\s+/).filter(Boolean).length;
    const inTurns = turns.reduce((sum, turn) => sum + words(turn.text), 0);
    const inText = words(text.replace(/(^|\n\n+)[^\n:]+:(?=\n|$)/g, "$1"));
    expect(inTurns).toBe(inText);
  });

  test("tinyshakespeare falls into parts that share no named person who speaks in a row", () => {
    const turns = parsePlay(shakespeare[0]!.text);
    const plays = splitPlays(turns);
    expect(plays.flat()).toEqual(turns);
    expect(plays.length).toBe(8);
    const partOf = (name: string): number[] =>
      plays.flatMap((part, i) => (part.some((turn) => turn.speaker === name) ? [i] : []));
    // Coriolanus, Richard III, Richard II, Romeo and Juliet with Henry VI, The Winter's Tale, Measure for Measure,
    // The Taming of the Shrew, The Tempest.
    expect(
      ["CORIOLANUS", "KING RICHARD III", "KING RICHARD II", "ROMEO", "LEONTES", "ANGELO", "PETRUCHIO", "PROSPERO"].map(
        partOf,
      ),
    ).toEqual(plays.map((_, i) => [i]));
    for (const silence of [300, 500, 600])
      expect(splitPlays(turns, { silence }).map((part) => part.length)).toEqual(plays.map((part) => part.length));
  });

  test("the reply is another person's, in their name, within a scene", () => {
    const speech = (speaker: string, text: string): Turn => ({ speaker, text });
    const turns = [
      speech("A", "a1"),
      speech("B", "b1"),
      speech("A", "a2"),
      speech("A", "a3"),
      speech("B", "b2"),
      speech("C", "c1"),
      speech("D", "d1"),
      speech("C", "c2"),
      speech("D", "d2"),
      speech("C", "c3"),
    ];
    expect(splitScenes(turns).map((scene) => scene.length)).toEqual([5, 5]);
    const said = replyPairs(turns).map(({ messages }) =>
      messages.map((m) => `${m.role} ${m.name} ${m.content}`).join(" | "),
    );
    expect(said).toEqual([
      "user A a1 | assistant B b1",
      "user B b1 | assistant A a2",
      "user A a3 | assistant B b2",
      "user C c1 | assistant D d1",
      "user D d1 | assistant C c2",
      "user C c2 | assistant D d2",
      "user D d2 | assistant C c3",
    ]);
    const two = replyPairs(turns, { context: 2 })[1]!.messages.map((m) => `${m.role} ${m.content}`);
    expect(two).toEqual(["assistant a1", "user b1", "assistant a2"]);
    expect(replyPairs([speech("A", "x".repeat(50)), speech("B", "y")], { longest: 40 })).toEqual([]);
  });
});

describe("continuations", () => {
  test("cut at the sentence nearest to the middle, in Chinese too, and lose no word", () => {
    const english =
      "The first sentence is here. The second one goes on a little. A third ends it! And so it was, said he.";
    const chinese = "子曰学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？".repeat(2);
    for (const text of [english, chinese]) {
      const [pair] = continuationPairs(text);
      const [prompt, reply] = pair!.messages;
      expect(prompt!.content).toMatch(/[.!?。？！]$/);
      expect((prompt!.content + reply!.content).replace(/\s/g, "")).toBe(text.replace(/\s/g, ""));
      expect([prompt!.role, reply!.role]).toEqual(["user", "assistant"]);
    }
  });

  test("long paragraphs give several pairs, short ones none, and one long word is cut between characters", () => {
    const long = "Some words of a sentence. ".repeat(100);
    const pairs = continuationPairs(long, { longest: 300 });
    expect(pairs.length).toBeGreaterThan(8);
    expect(pairs.flatMap(({ messages }) => messages.map((m) => m.content)).join(" ")).toBe(long.trim());
    for (const { messages } of pairs)
      expect(messages[0]!.content.length + messages[1]!.content.length).toBeLessThanOrEqual(300);
    const start = performance.now();
    expect(continuationPairs("a line without an end ".repeat(50_000)).length).toBeGreaterThan(1000);
    expect(performance.now() - start).toBeLessThan(5000);
    expect(continuationPairs("Too short.")).toEqual([]);
    const [word] = continuationPairs("🐘".repeat(50));
    expect(word!.messages.map((m) => m.content).join("")).toBe("🐘".repeat(50));
    expect(word!.messages.every((m) => !/\p{Surrogate}/u.test(m.content))).toBe(true);
  });
});

describe("pairs for the policy and for the judge", () => {
  test("come from different plays of tinyshakespeare, and none from the held-out part", () => {
    const { train, heldOut } = holdOut(shakespeare, 0.1);
    const { kind, own, judge } = pairsOf(train, "auto");
    expect(kind).toBe("dialogue");
    expect(own.length).toBeGreaterThan(3000);
    expect(judge.length / (own.length + judge.length)).toBeGreaterThan(0.2);
    expect(judge.length / (own.length + judge.length)).toBeLessThan(0.3);
    // People in capitals who reply often belong to one side or the other.
    const speakers = (pairs: typeof own): Set<string> => {
      const counts = new Map<string, number>();
      for (const { messages } of pairs) {
        const name = messages.at(-1)!.name!;
        counts.set(name, (counts.get(name) ?? 0) + 1);
      }
      return new Set(
        [...counts].filter(([name, count]) => count >= 20 && name === name.toUpperCase()).map(([name]) => name),
      );
    };
    const judged = speakers(judge);
    const shared = [...speakers(own)].filter((name) => judged.has(name));
    expect(shared).toEqual(["DUCHESS OF YORK"]); // one in Richard II, another in Richard III
    const held = new Set(
      pairsOf(heldOut, "dialogue").own.map(({ messages }) => messages.map((m) => m.content).join("\n\n")),
    );
    const trained = [...own, ...judge].map(({ messages }) => messages.map((m) => m.content).join("\n\n"));
    expect(trained.filter((pair) => held.has(pair) && pair.length > 80)).toEqual([]);
  });

  test("other text gives continuations, by whole documents or by position", () => {
    const paragraph = (i: number): string =>
      `Paragraph ${i} says something of no great weight. Then it says something else, number ${i}.`;
    const document = (from: number, n: number): SourceText => ({
      source: `${from}`,
      text: Array.from({ length: n }, (_, i) => paragraph(from + i)).join("\n\n"),
    });
    const one = pairsOf([document(0, 40)], "auto");
    expect([one.kind, one.own.length, one.judge.length]).toEqual(["continuation", 30, 10]);
    const many = pairsOf([document(0, 10), document(100, 30), document(200, 10)], "auto");
    expect([many.own.length, many.judge.length]).toEqual([40, 10]);
    expect(() => pairsOf([{ source: "x", text: "Nothing." }], "auto")).toThrow("too few paragraphs");
    expect(() => pairsOf([document(0, 3)], "dialogue")).toThrow("too little dialogue");
  });

  test("the parts set aside are whole, and never all of them", () => {
    const parts = [[1, 1, 1, 1], [2, 2], [3], [4, 4, 4]];
    expect(setAsideForJudge(parts, 0.3)).toEqual({ own: [1, 1, 1, 1, 4, 4, 4], judge: [2, 2, 3] });
    expect(setAsideForJudge([[1], [2]], 0.99).own.length).toBe(1);
    const many = Array.from({ length: 30 }, (_, i) => [i, i]);
    expect(setAsideForJudge(many, 0.2).judge.length).toBe(12);
  });
});
