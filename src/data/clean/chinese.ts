import { drop, type Filter, kept, type Outcome, type Page, percent } from "./filter.ts";
import { codePoints, strip } from "./text.ts";

const han = /\p{Script=Han}/gu;
const visible = /[^\p{White_Space}]/gu;
/** What is left when GBK was read as UTF-8 or the other way round, private-use characters, and the replacement character. */
const garbled = /[\ufffd\ue000-\uf8ff]|锟斤拷|烫烫烫|屯屯屯/gu;
/** Calls to follow, add, buy: lines that every page of a site carries. */
const advertising =
  /(?:加|添加)(?:我|客服)?(?:的)?(?:微信|QQ|扣扣)|微信(?:号|公众号)[:：]|(?:QQ|扣扣)群|扫(?:一扫|描)?(?:下方|上方)?二维码|点击(?:关注|查看更多|下载|进入)|版权所有|未经授权|转载请注明|关注公众号|全网最低价|代开发票|欢迎(?:来电|咨询)/u;

export interface ChineseOptions {
  readonly minCharacters?: number;
  readonly minHan?: number;
  readonly minMeanLine?: number;
  readonly maxRepeated?: number;
  readonly maxPunctuation?: number;
}

/**
 * Rules for Chinese pages after ChineseWebText (Chen et al. 2023, section 3.2): length, share of Chinese characters, mean length of lines, text
 * that repeats itself (13-grams of characters), and what only Chinese pages suffer from: mixed-up encodings, advertising lines.
 */
export function chineseQuality(options: ChineseOptions = {}): Filter {
  const { minCharacters = 200, minHan = 0.3, minMeanLine = 10, maxRepeated = 0.5, maxPunctuation = 0.3 } = options;
  const name = "chinese";
  return {
    name,
    source: "Chen et al. 2023, section 3.2",
    rules: {
      "line: advertising": "a call to follow, add, scan or buy, or a copyright line",
      garbled: "signs of a wrong encoding: more than one in a thousand characters",
      short: `fewer than ${minCharacters} characters are left`,
      han: `fewer than ${percent(minHan)} of the characters are Chinese`,
      short_lines: `lines of fewer than ${minMeanLine} characters on average`,
      punctuation: `more than ${percent(maxPunctuation)} of the characters are signs`,
      repeated: `more than ${percent(maxRepeated)} of the runs of 13 characters stood there before`,
    },
    apply(page: Page): Outcome {
      const broken = page.text.match(garbled)?.length ?? 0;
      const all = codePoints(page.text);
      if (broken / all > 0.001)
        return drop(name, "garbled", broken / all, 0.001, `${broken} places look like a wrong encoding.`);
      let advertisements = 0;
      const lines = page.text.split("\n").filter((line) => {
        const is = line.length < 120 && advertising.test(line);
        if (is) advertisements++;
        return !is;
      });
      const text = strip(lines.join("\n"));
      const size = text.match(visible)?.length ?? 0;
      if (size < minCharacters) return drop(name, "short", size, minCharacters, `${size} characters are left.`);
      const share = (text.match(han)?.length ?? 0) / size;
      if (share < minHan) return drop(name, "han", share, minHan, `${percent(share)} of its characters are Chinese.`);
      const full = lines.filter((l) => strip(l) !== "");
      const mean = size / full.length;
      if (mean < minMeanLine)
        return drop(name, "short_lines", mean, minMeanLine, `Its lines have ${mean.toFixed(1)} characters.`);
      const signs = (text.match(/[\p{P}\p{S}]/gu)?.length ?? 0) / size;
      if (signs > maxPunctuation)
        return drop(name, "punctuation", signs, maxPunctuation, `${percent(signs)} of its characters are signs.`);
      const repeated = repeatedRuns(text, 13);
      if (repeated > maxRepeated)
        return drop(
          name,
          "repeated",
          repeated,
          maxRepeated,
          `${percent(repeated)} of its runs of 13 characters stood there before.`,
        );
      return advertisements > 0 ? { keep: true, text, taken: { "line: advertising": advertisements } } : kept;
    },
  };
}

function repeatedRuns(text: string, n: number): number {
  const plain = text.replace(/\s+/g, "");
  const runs = plain.length - n + 1;
  if (runs < 1) return 0;
  const seen = new Set<string>();
  for (let i = 0; i < runs; i++) seen.add(plain.slice(i, i + n));
  return 1 - seen.size / runs;
}
