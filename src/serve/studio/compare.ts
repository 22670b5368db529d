import { parse } from "yaml";
import type { ComparedRow, CorpusComparison, CorpusReport } from "../data-api.ts";

type Counts = Readonly<Record<string, number>>;

/** Rows of two counts, most documents first; a key that one lacks counts 0. */
function side(a: Counts, b: Counts): ComparedRow[] {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  const rows = [...keys].map((key) => ({ key, a: a[key] ?? 0, b: b[key] ?? 0 }));
  return rows.sort((x, y) => Math.max(y.a, y.b) - Math.max(x.a, x.b) || (x.key < y.key ? -1 : 1));
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Every setting by its path, such as `sources.crawl.clean.c4.min_sentences`. What has a name goes by it, whatever its place. */
export function settingsOf(value: unknown, path = "", into = new Map<string, string>()): Map<string, string> {
  const at = (key: string) => (path === "" ? key : `${path}.${key}`);
  if (isRecord(value) && Object.keys(value).length > 0) {
    for (const [key, inner] of Object.entries(value)) settingsOf(inner, at(key), into);
  } else if (Array.isArray(value) && value.length > 0 && value.every(isRecord)) {
    for (const [i, item] of value.entries()) {
      const { name, ...rest } = item;
      const keys = Object.keys(item);
      if (typeof name === "string") settingsOf(rest, at(name), into);
      else if (keys.length === 1) settingsOf(item[keys[0]!], at(keys[0]!), into);
      else settingsOf(item, at(String(i + 1)), into);
    }
  } else if (isRecord(value)) into.set(path, "✓");
  else into.set(path, typeof value === "string" ? value : JSON.stringify(value));
  return into;
}

function recipeOf(text: string | undefined): Map<string, string> {
  try {
    return text === undefined ? new Map() : settingsOf(parse(text));
  } catch {
    return new Map(); // broken by hand: it is only shown
  }
}

interface Compared {
  readonly name: string;
  readonly report: CorpusReport;
  readonly recipe?: string | undefined;
}

/** Two corpora side by side: sizes, counts, words and the settings that differ. */
export function compareCorpora(a: Compared, b: Compared): CorpusComparison {
  const numbersOf = ({ report: r }: Compared): Counts => ({
    inputs: r.inputs,
    problems: r.problems.count,
    read: r.read.documents,
    cleaned: r.cleaned.documents,
    exact: r.duplicates.exact,
    near: r.duplicates.near,
    documents: r.final.documents,
    bytes: r.final.bytes,
    tokens: r.final.tokens,
    vocabulary: r.tokenizer.vocabulary,
    bytesPerToken: r.tokenizer.bytesPerToken,
    heldOut: r.holdout.tokens,
  });
  const [one, two] = [numbersOf(a), numbersOf(b)];
  const table = (of: (r: CorpusReport) => Counts) => side(of(a.report), of(b.report));
  const lengths = table((r) => r.lengths).sort((x, y) => Number(x.key) - Number(y.key));
  const [mine, theirs] = [recipeOf(a.recipe), recipeOf(b.recipe)];
  const settings = [...new Set([...mine.keys(), ...theirs.keys()])]
    .filter((key) => mine.get(key) !== theirs.get(key) && key !== "name" && key !== "out")
    .map((key) => {
      const [x, y] = [mine.get(key), theirs.get(key)];
      return { key, ...(x === undefined ? {} : { a: x }), ...(y === undefined ? {} : { b: y }) };
    });
  const languages = new Set([...a.report.keywords, ...b.report.keywords].map((k) => k.language));
  const words = [...languages].map((language) => {
    const of = ({ report }: Compared) =>
      report.keywords.find((k) => k.language === language)?.tfIdf.map((w) => w.word) ?? [];
    const [x, y] = [of(a), of(b)];
    return {
      language,
      onlyA: x.filter((w) => !y.includes(w)),
      onlyB: y.filter((w) => !x.includes(w)),
      both: x.filter((w) => y.includes(w)),
    };
  });
  return {
    a: a.name,
    b: b.name,
    numbers: Object.keys(one).map((key) => ({ key, a: one[key]!, b: two[key]! })),
    tables: {
      dropped: table((r) => Object.fromEntries(r.dropped.map((d) => [d.rule, d.documents]))),
      languages: table((r) => r.languages),
      licences: table((r) => r.licences),
      formats: table((r) => r.formats),
      lengths,
      sources: table((r) => Object.fromEntries(r.sources.map((s) => [s.name, s.documents]))),
    },
    words,
    settings,
  };
}
