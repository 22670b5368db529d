import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { eld } from "eld/medium";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { eldFile, loadDetector, NGramTable } from "../../src/data/clean/detector.ts";
import {
  chineseQuality,
  clean,
  findPii,
  gopherQuality,
  guessLanguage,
  languageFilter,
  loadLanguages,
  NGramModel,
  Page,
  parseWordList,
  perplexityFilter,
  QualityClassifier,
  qualityFilter,
  repairText,
  replacePii,
  wordList,
} from "../../src/data/clean/index.ts";
import { chineseId, luhn, publicIPv4 } from "../../src/data/clean/pii.ts";
import { chooseBackend, useBackend } from "../../src/engine/index.ts";

const reasonOf = (o: ReturnType<ReturnType<typeof gopherQuality>["apply"]>) => (o.keep ? undefined : o.reason.rule);

describe("Unicode repair", () => {
  test.each([
    ["UTF-8 read as windows-1252", "cafÃ© â€œquotedâ€\u009d itâ€™s", "café “quoted” it’s"],
    ["the same, twice", "cafÃƒÂ©", "café"],
    ["Chinese read as Latin-1", Buffer.from("你好，世界").toString("latin1"), "你好，世界"],
    ["an emoji read as windows-1252", "ðŸ˜€", "😀"],
    ["accents that were meant", "Ångström, São Paulo, £5, naïve", "Ångström, São Paulo, £5, naïve"],
    ["references", "Tom &amp; Jerry &lt;3 &#8220;x&#x201d; &amp;amp; &unknown;", "Tom & Jerry <3 “x” & &unknown;"],
    ["controls and marks nobody sees", "a\u0000b\u200bc\ufeffd\u00ade\u202ef", "abcdef"],
    ["lines and spaces", "a\r\nb\rc\u2028d \t \n\n\n\n\u00a0e   f", "a\nb\nc\nd\n\n e f"],
    ["joiners inside emoji stay, others go", "👨‍👩‍👧 wo\u200drd", "👨‍👩‍👧 word"],
    ["joiners that Persian needs stay", "می‌خواهم", "می‌خواهم"],
    ["one normal form", "e\u0301", "é"],
    ["a lone half of a pair", "a\ud800b", "ab"],
  ])("%s", (_what, text, want) => {
    expect(repairText(text)).toBe(want);
  });
  test("repairing twice is repairing once, and never throws", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (s) => {
        const once = repairText(s);
        expect(repairText(once)).toBe(once);
      }),
      { numRuns: 500 },
    );
  });
  test("NFKC makes full-width letters plain", () => {
    expect(repairText("ＡＢＣ１２３", { form: "NFKC" })).toBe("ABC123");
  });
});

describe("personal data", () => {
  test.each([
    ["email", "write to a.b+c@mail.example.co.uk.", "a.b+c@mail.example.co.uk"],
    ["ip", "from 8.8.4.4:80", "8.8.4.4"],
    ["ip", "see 2001:4860:4860::8888 now", "2001:4860:4860::8888"],
    ["phone", "电话：13812345678，", "13812345678"],
    ["phone", "+86 138 1234 5678", "+86 138 1234 5678"],
    ["phone", "电话 010-62345678。", "010-62345678"],
    ["phone", "call (415) 555-2671!", "(415) 555-2671"],
    ["phone", "+44 20 7946 0958", "+44 20 7946 0958"],
    ["card_number", "card 4111 1111 1111 1111 ok", "4111 1111 1111 1111"],
    ["id_number", "身份证11010519491231002X。", "11010519491231002X"],
    ["id_number", "SSN 219-09-9999", "219-09-9999"],
  ] as const)("%s in %s", (kind, text, want) => {
    const found = findPii(text);
    expect(found.map((f) => [f.kind, text.slice(f.start, f.end)])).toEqual([[kind, want]]);
    expect(replacePii(text).text).toBe(text.replace(want, `<${kind}>`));
  });
  test.each([
    "version 10.0.0.1 and 192.168.1.1",
    "the years 1939-1945, pages 100-200, 3.14159265358979",
    "4111 1111 1111 1112 fails its check digit",
    "110105194912310021 fails its check character",
    "at 12:34:56 on 2024-01-02, ratio 1:2:3",
    "ISBN 978-3-16-148410-0, order 123456789012",
    "@mention and me@localhost",
    "000-12-3456",
  ])("nothing in %s", (text) => {
    expect(findPii(text)).toEqual([]);
  });
  test("check digits", () => {
    expect([luhn("79927398713"), luhn("79927398710")]).toEqual([true, false]);
    expect([chineseId("11010519491231002X"), chineseId("110105194912310022")]).toEqual([true, false]);
    expect(["1.1.1.1", "10.1.2.3", "172.16.0.1", "203.0.113.9", "100.64.0.1"].map(publicIPv4)).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
  });
});

describe("languages", () => {
  beforeAll(() => loadLanguages());
  test.each([
    ["en", "The committee will meet again on Thursday to discuss what should be done about the old bridge."],
    ["de", "Der Ausschuss trifft sich am Donnerstag wieder, um zu beraten, was mit der alten Brücke geschehen soll."],
    ["zh", "委员会将于星期四再次开会，讨论应该如何处理那座旧桥。"],
    ["zh", "子曰：学而时习之，不亦说乎？"],
    ["zh", "这是 Python 的 for 循环示例，使用 range 函数即可完成。"],
    ["ja", "委員会は木曜日に再び集まり、古い橋をどうするか話し合います。"],
    ["ko", "위원회는 목요일에 다시 모여 오래된 다리를 어떻게 할지 논의할 것이다."],
    ["und", "12345 67 -- 89"],
  ])("%s: %s", (language, text) => {
    const guess = guessLanguage(text);
    expect(guess.language).toBe(language);
    expect(guess.confidence).toBeGreaterThanOrEqual(0);
    expect(guess.confidence).toBeLessThanOrEqual(1);
  });
  test("n-grams read as text are those of eld's own module, one by one, and its answers are its own", async () => {
    const path = eldFile("ngrams/medium.js");
    const { ngramsData } = (await import(pathToFileURL(path).href)) as {
      ngramsData: { languages: Record<string, string>; ngrams: Record<string, Record<string, number>> };
    };
    const table = new NGramTable(readFileSync(path, "utf8"));
    const other = Object.entries(ngramsData.ngrams).filter(([ngram, scores]) => {
      const found = table.get(ngram) ?? {};
      return (
        Object.keys(found).join() !== Object.keys(scores).join() ||
        Object.keys(found).some((l) => found[l] !== scores[l])
      );
    });
    expect(other).toEqual([]);
    expect(table.size).toBe(Object.keys(ngramsData.ngrams).length);
    expect(table.languages).toEqual(ngramsData.languages);
    expect([table.get("\u{1f600}"), table.get(""), table.get("eeeeeeeeee"), table.get("constructor")]).toEqual(
      Array(4).fill(undefined),
    );
    const detector = await loadDetector();
    for (const text of ["The old bridge", "Die alte Brücke", "старый мост", "pont vieux", "xq zzj", "", "12"]) {
      const [mine, theirs] = [detector.detect(text), eld.detect(text)];
      expect([mine.language, mine.getScores(), mine.isReliable()]).toEqual([
        theirs.language,
        theirs.getScores(),
        theirs.isReliable(),
      ]);
    }
    for (const broken of ["", "export const ngramsData = {}", readFileSync(path, "utf8").slice(0, 2000)])
      expect(() => new NGramTable(broken)).toThrow(/not of the form that is known here/);
  });
  test("a filter says what it found instead", () => {
    const filter = languageFilter({ languages: ["en"] });
    const outcome = filter.apply(new Page("Der Ausschuss trifft sich am Donnerstag wieder, um zu beraten."));
    expect(outcome.keep || outcome.reason.why).toMatch(/in de/);
  });
});

describe("Chinese pages", () => {
  const good = [
    "这座小城建在两条河交汇的地方，最早的城墙是用河里的石头砌成的，今天还能在菜市场后面看到一小段。",
    "住在城里的人大多做木工，他们把上游漂下来的松木锯成板材，再用船运到海边去卖，换回盐和布匹。",
    "每年春天水涨的时候，孩子们都跑到桥上去看木排，谁先认出自家的记号，谁家晚上就要请邻居喝酒。",
    "后来修了铁路，船越来越少，年轻人坐着火车去了省城，只有老人还记得怎样从水声里听出第二天的天气。",
    "去年有一位教师把这些故事记了下来，印成一本薄薄的书，放在车站的小店里，据说已经卖出去三百多本。",
  ].join("\n");
  test("good text stays, its advertising line does not", () => {
    const outcome = chineseQuality().apply(new Page(`${good}\n更多内容请扫一扫下方二维码关注公众号`, "zh"));
    expect(outcome.keep && outcome.text).toBe(good);
  });
  test.each([
    ["garbled", `${good}锟斤拷锟斤拷锟斤拷锟斤拷`],
    ["short", "你好，世界。"],
    ["han", "This is a page about a small town in English, nothing more. ".repeat(8)],
    ["short_lines", Array.from({ length: 60 }, (_, i) => `菜单${i}项`).join("\n")],
    ["repeated", "这是一句不断重复的话没有别的内容。".repeat(30)],
  ])("%s", (rule, text) => {
    expect(reasonOf(chineseQuality().apply(new Page(text, "zh")))).toBe(rule);
  });
});

describe("word lists", () => {
  test("whole words in spaced languages, substrings in Chinese", () => {
    const english = wordList({ words: ["ass", "bad word"], language: "en" });
    expect(english.apply(new Page("A class of assets.")).keep).toBe(true);
    expect(english.apply(new Page("What a BAD word!")).keep).toBe(false);
    expect(wordList({ words: ["坏词"], language: "zh" }).apply(new Page("这里有坏词在。", "zh")).keep).toBe(false);
  });
  test("signs in a listed word mean themselves", () => {
    for (const word of ["ill-bred", "a.b", "c++", "f*ck", "what?", "(x)", "a/b", "$|{}[]^\\"]) {
      const filter = wordList({ words: [word], language: "en" });
      expect(filter.apply(new Page(`So ${word} it is.`)).keep, word).toBe(false);
      expect(filter.apply(new Page("So illxbred, axb, cc, fck, wha, x, a it is.")).keep, word).toBe(true);
    }
  });
  test("comments and empty lines are no words, and a list without words is an error", () => {
    expect(parseWordList("# list\n Foo \n\nbar # x\nfoo\n", "words.txt")).toEqual(["foo", "bar"]);
    expect(() => parseWordList("# nothing\n", "words.txt")).toThrow(/words\.txt: there is no word/);
  });
});

describe("n-gram model", () => {
  const model = new NGramModel(3);
  for (const line of ["the cat sat on the mat", "the dog sat on the rug", "the cat saw the dog", "a dog sat"])
    model.add(line);
  test("probabilities of all words and of the unseen one sum to 1, after any history", () => {
    const words = ["the", "cat", "sat", "on", "mat", "dog", "rug", "saw", "a", "\u0003"];
    for (const history of ["the", "the cat", "on the", "nothing known", ""]) {
      const known = words.slice(0, -1).reduce((n, w) => n + model.probability(history, w), 0);
      // The end of a line has no text to ask for it: what is missing is its probability and that of unseen words.
      const rest = 1 - known;
      expect(rest).toBeGreaterThan(0);
      expect(rest).toBeLessThan(history === "the cat" || history === "" ? 0.5 : 1);
      expect(model.probability(history, "zebra")).toBeLessThanOrEqual(rest + 1e-12);
    }
  });
  test("what was read surprises least, and order of words counts", () => {
    const known = model.perplexity("the cat sat on the rug");
    expect(known).toBeLessThan(model.perplexity("rug the on sat cat the"));
    expect(model.perplexity("the cat sat on the rug")).toBeLessThan(model.perplexity("zebras xylophone quickly"));
    expect(model.perplexity("")).toBe(Number.POSITIVE_INFINITY);
    expect(perplexityFilter({ model, max: known + 1 }).apply(new Page("the cat sat on the rug")).keep).toBe(true);
    expect(perplexityFilter({ model, max: known + 1 }).apply(new Page("zebras xylophone")).keep).toBe(false);
  });
});

describe("quality classifier", () => {
  beforeAll(() => {
    useBackend(chooseBackend("auto", () => {}));
  });
  const topics = ["river", "history", "music", "law", "garden", "engine", "winter", "school"];
  const good = Array.from(
    { length: 60 },
    (_, i) =>
      `The ${topics[i % 8]} of the town is described in a careful essay, number ${i}, which explains how it came about and why it matters.`,
  );
  const bad = Array.from(
    { length: 60 },
    (_, i) => `buy now cheap ${topics[i % 8]} click here best price !!! login register cart ${i} free shipping $$$`,
  );
  test("it tells good from other on texts it has not seen, is stored whole, and trains to the same bits", async () => {
    const losses: number[] = [];
    const options = { buckets: 4096, epochs: 6, onEpoch: (_e: number, loss: number) => losses.push(loss) };
    const classifier = await QualityClassifier.train(good.slice(0, 50), bad.slice(0, 50), options);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! / 2);
    for (const text of good.slice(50)) expect(classifier.score(text)).toBeGreaterThan(0.7);
    for (const text of bad.slice(50)) expect(classifier.score(text)).toBeLessThan(0.3);
    const again = QualityClassifier.fromJSON(JSON.parse(JSON.stringify(classifier)), "quality.json");
    expect(again.score(good[0]!)).toBe(classifier.score(good[0]!));
    expect((await QualityClassifier.train(good.slice(0, 50), bad.slice(0, 50), options)).weights).toEqual(
      classifier.weights,
    );
    const filter = qualityFilter({ classifier });
    const keeps = (texts: readonly string[]) =>
      texts.filter((t) => filter.apply(new Page(t)).keep).length / texts.length;
    expect(keeps(good)).toBeGreaterThan(keeps(bad) + 0.3);
  });
  test("both kinds of text are needed, and a wrong file is refused", async () => {
    await expect(QualityClassifier.train(["good text"], [])).rejects.toThrow(/1 good and 0 other/);
    expect(() => QualityClassifier.fromJSON({ kind: "other" }, "q.json")).toThrow(
      /q\.json: this is not a quality classifier/,
    );
  });
});

test("filters run one after the other, and each sees what the one before left", () => {
  const cut = {
    name: "cut",
    source: "",
    rules: {},
    apply: (p: Page) => ({ keep: true as const, text: p.text.slice(0, 10), taken: { tail: 1 } }),
  };
  const result = clean([cut, gopherQuality()], "many words ".repeat(100), "en");
  expect(result.text).toBe("many words");
  expect(result.reason?.rule).toBe("short");
  expect(result.taken).toEqual({ "cut/tail": 1 });
});
