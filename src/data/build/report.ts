import { formatBytes } from "../../runs/atomic.ts";
import type { Problem } from "../document.ts";
import { hashBits } from "../random.ts";
import type { DedupeReport } from "./dedupe.ts";
import { jsonLines } from "./lines.ts";
import type { SourceShare } from "./mix.ts";
import type { DataRecipe } from "./recipe.ts";
import { contentWords, lda, type Ranked, type Topic, textRank, tfIdf } from "./understand.ts";
import { type DroppedDocument, type KeptDocument, type UnitResult, unitFiles } from "./unit.ts";

export interface DataReport {
  readonly version: 1;
  readonly name: string;
  readonly inputs: number;
  readonly read: { readonly documents: number; readonly bytes: number };
  readonly cleaned: { readonly documents: number; readonly bytes: number };
  readonly final: { readonly documents: number; readonly bytes: number; readonly tokens: number };
  /** Documents that went, by `filter/rule`, most first, with some of them. */
  readonly dropped: readonly {
    readonly rule: string;
    readonly documents: number;
    readonly examples: readonly Example[];
  }[];
  /** Lines, places of personal data and the like that were taken out of documents that stay. */
  readonly taken: Readonly<Record<string, number>>;
  readonly duplicates: Omit<DedupeReport, "files" | "dropped">;
  readonly leaks: Readonly<Record<string, number>>;
  readonly languages: Readonly<Record<string, number>>;
  readonly licences: Readonly<Record<string, number>>;
  readonly formats: Readonly<Record<string, number>>;
  readonly lengths: Readonly<Record<string, number>>;
  readonly sources: readonly (SourceShare & {
    readonly documents: number;
    readonly bytes: number;
    readonly realised: number;
  })[];
  readonly tokenizer: { readonly vocabulary: number; readonly bytesPerToken: number };
  readonly shards: readonly { readonly path: string; readonly tokens: number; readonly documents: number }[];
  readonly holdout: { readonly tokens: number; readonly documents: number };
  readonly keywords: readonly {
    readonly language: string;
    readonly tfIdf: readonly Ranked[];
    readonly textRank: readonly Ranked[];
  }[];
  readonly topics: readonly Topic[];
  readonly kept: readonly Example[];
  readonly problems: {
    readonly count: number;
    readonly byCode: Readonly<Record<string, number>>;
    readonly first: readonly Problem[];
  };
  readonly seconds: Readonly<Record<string, number>>;
}

export interface Example {
  readonly id: string;
  readonly text: string;
  readonly why?: string;
}

const SHOWN = 400;
/** Documents that keywords and topics are made of. */
const LOOKED_AT = 2000;

const sum = (list: readonly Readonly<Record<string, number>>[]): Record<string, number> => {
  const out: Record<string, number> = {};
  for (const one of list) for (const [key, n] of Object.entries(one)) out[key] = (out[key] ?? 0) + n;
  return Object.fromEntries(Object.entries(out).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)));
};

/** `most` of a stream, each as likely as any other; which ones depends on the ids alone. */
function sample<T>(stream: Iterable<T>, id: (x: T) => string, most: number, seed: number): T[] {
  const held: { x: T; at: number }[] = [];
  for (const x of stream) {
    let at = seed;
    for (const c of id(x)) at = hashBits(at, c.codePointAt(0)!);
    if (held.length < most) held.push({ x, at });
    else {
      let largest = 0;
      for (let i = 1; i < held.length; i++) if (held[i]!.at > held[largest]!.at) largest = i;
      if (most > 0 && at < held[largest]!.at) held[largest] = { x, at };
    }
  }
  return held.sort((a, b) => a.at - b.at).map(({ x }) => x);
}

export interface ReportInput {
  readonly recipe: DataRecipe;
  readonly folder: string;
  readonly units: readonly UnitResult[];
  readonly problems: readonly Problem[];
  readonly dedupe: DedupeReport;
  readonly shares: readonly SourceShare[];
  readonly realised: readonly number[];
  readonly tokenizer: DataReport["tokenizer"];
  readonly shards: DataReport["shards"];
  readonly holdout: DataReport["holdout"];
  readonly seconds: Readonly<Record<string, number>>;
}

export function makeReport(input: ReportInput): DataReport {
  const { recipe, folder, units, dedupe } = input;
  const { samples, topics } = recipe.report;
  const examples = new Map<string, Example[]>();
  for (const { key } of units)
    for (const d of jsonLines<DroppedDocument>(unitFiles(folder, key).dropped)) {
      const rule = `${d.reason.filter}/${d.reason.rule}`;
      const list = examples.get(rule) ?? [];
      if (list.length < samples) list.push({ id: d.id, text: d.text.slice(0, SHOWN), why: d.reason.why });
      examples.set(rule, list);
    }
  const documents = function* () {
    for (const { path } of dedupe.files) yield* jsonLines<KeptDocument>(path);
  };
  const looked = sample(documents(), (d) => d.id, LOOKED_AT, recipe.seed);
  const words = looked.map((d) => contentWords(d.text.slice(0, 20_000), d.lang));
  const languages = [...new Set(looked.map((d) => d.lang))];
  const problems = [...input.problems, ...units.flatMap((u) => u.problems)];
  const byCode = sum(problems.map((p) => ({ [p.code]: 1 })));
  const unlisted = units.reduce((n, u) => n + u.problemCount - u.problems.length, 0);
  const total = (of: (u: UnitResult) => number) => units.reduce((n, u) => n + of(u), 0);
  const final = Object.values(dedupe.sources);
  const { files: _files, dropped: _dropped, ...duplicates } = dedupe;
  return {
    version: 1,
    name: recipe.name,
    inputs: units.length,
    read: { documents: total((u) => u.documents), bytes: total((u) => u.bytes) },
    cleaned: { documents: total((u) => u.kept), bytes: total((u) => u.keptBytes) },
    final: {
      documents: final.reduce((n, s) => n + s.documents, 0),
      bytes: final.reduce((n, s) => n + s.bytes, 0),
      tokens: input.shares.reduce((n, s) => n + s.tokens, 0) + input.holdout.tokens,
    },
    dropped: Object.entries(sum(units.map((u) => u.dropped))).map(([rule, n]) => ({
      rule,
      documents: n,
      examples: examples.get(rule) ?? [],
    })),
    taken: sum(units.map((u) => u.taken)),
    duplicates,
    leaks: sum(units.map((u) => u.leaks)),
    languages: sum(units.map((u) => u.languages)),
    licences: sum(units.map((u) => u.licences)),
    formats: sum(units.map((u) => u.formats)),
    lengths: Object.fromEntries(
      Object.entries(sum(units.map((u) => u.lengths))).sort((a, b) => Number(a[0]) - Number(b[0])),
    ),
    sources: input.shares.map((s, i) => ({
      ...s,
      documents: dedupe.sources[s.name]?.documents ?? 0,
      bytes: dedupe.sources[s.name]?.bytes ?? 0,
      realised: input.realised[i]!,
    })),
    tokenizer: input.tokenizer,
    shards: input.shards,
    holdout: input.holdout,
    keywords: languages
      .map((language) => {
        const of = words.filter((_, i) => looked[i]!.lang === language);
        return { language, documents: of.length, tfIdf: tfIdf(of, 20), textRank: textRank(of, 20) };
      })
      .filter((k) => k.documents >= 5 || languages.length === 1)
      .sort((a, b) => b.documents - a.documents)
      .slice(0, 4)
      .map(({ documents: _n, ...k }) => k),
    topics: lda(words, topics, recipe.seed),
    kept: looked.slice(0, samples).map((d) => ({ id: d.id, text: d.text.slice(0, SHOWN) })),
    problems: { count: problems.length + unlisted, byCode, first: problems.slice(0, 200) },
    seconds: input.seconds,
  };
}

const number = (n: number) => n.toLocaleString("en-US");
const part = (n: number, of: number) => (of === 0 ? "-" : `${((100 * n) / of).toFixed(1)} %`);
/** One line, safe inside a table's cell. */
const cell = (text: string, most = 160) => {
  const flat = text.replace(/\s+/g, " ").replace(/\|/g, "\\|");
  return flat.length > most ? `${flat.slice(0, most)} …` : flat;
};
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((r) => `| ${r.join(" | ")} |`).join("\n");

/** The report as a person reads it. */
export function reportMarkdown(r: DataReport): string {
  const counts = (record: Readonly<Record<string, number>>, what: string) =>
    table(
      [what, "documents", "share"],
      Object.entries(record)
        .slice(0, 20)
        .map(([k, n]) => [cell(k), number(n), part(n, r.cleaned.documents)]),
    );
  const d = r.duplicates;
  const out = [
    `# ${r.name}`,
    table(
      ["", "documents", "text", "of what was read"],
      [
        ["read", number(r.read.documents), formatBytes(r.read.bytes), ""],
        [
          "after cleaning",
          number(r.cleaned.documents),
          formatBytes(r.cleaned.bytes),
          part(r.cleaned.documents, r.read.documents),
        ],
        [
          "after deduplication",
          number(r.final.documents),
          formatBytes(r.final.bytes),
          part(r.final.documents, r.read.documents),
        ],
      ],
    ),
    `${number(r.final.tokens)} tokens (${r.tokenizer.bytesPerToken.toFixed(2)} bytes each, vocabulary ${number(r.tokenizer.vocabulary)}), ${number(r.holdout.tokens)} of them held out. From ${number(r.inputs)} inputs.`,
    "## Mixture",
    table(
      ["source", "documents", "tokens", "epochs", "asked", "realised", "share"],
      r.sources.map((s) => [
        s.name,
        number(s.documents),
        number(s.tokens),
        s.epochs.toFixed(2),
        number(s.asked),
        number(s.realised),
        `${(100 * s.share).toFixed(1)} %`,
      ]),
    ),
    "## What the filters took",
    r.dropped.length === 0
      ? "Nothing."
      : table(
          ["rule", "documents", "of what was read"],
          r.dropped.map((x) => [x.rule, number(x.documents), part(x.documents, r.read.documents)]),
        ),
    ...(Object.keys(r.taken).length === 0
      ? []
      : [
          "Taken out of documents that stay:",
          table(
            ["what", "places"],
            Object.entries(r.taken).map(([k, n]) => [k, number(n)]),
          ),
        ]),
    "## Duplicates",
    `${number(d.exact)} documents were the same as another, ${number(d.near)} nearly the same${d.passages ? `; ${number(d.passages)} passages stood in the corpus before` : ""}${d.substringCharacters ? `; ${number(d.substringCharacters)} characters were repeated substrings` : ""}${d.emptied ? `; of ${number(d.emptied)} documents nothing else was left` : ""}.`,
    ...(d.nearReport
      ? [
          `Near: ${d.nearReport.banding.bands} bands of ${d.nearReport.banding.rows} rows for a similarity of ${d.nearReport.threshold}; ${number(d.nearReport.candidates)} candidate pairs, ${number(d.nearReport.refused)} refused. A pair is a candidate with probability:`,
          table(
            ["similarity", ...d.nearReport.curve.slice(3).map((c) => c.similarity.toFixed(1))],
            [["found", ...d.nearReport.curve.slice(3).map((c) => c.probability.toFixed(3))]],
          ),
        ]
      : []),
    ...d.clusters
      .slice(0, 10)
      .map(
        (c) =>
          `- ${c.size} ${c.kind === "exact" ? "equal" : "similar"}: ${c.members.map((m) => `\`${cell(m.id, 60)}\``).join(", ")}: ${cell(c.members[0]?.text ?? "")}`,
      ),
    ...(Object.keys(r.leaks).length === 0
      ? []
      : [
          "## Overlap with evaluations",
          table(
            ["evaluation", "documents"],
            Object.entries(r.leaks).map(([k, n]) => [k, number(n)]),
          ),
        ]),
    "## Languages",
    counts(r.languages, "language"),
    "## Licences",
    counts(r.licences, "licence"),
    "## Lengths",
    table(
      ["characters", "documents"],
      Object.entries(r.lengths).map(([k, n]) => [`${number(Number(k))} to ${number(2 * Number(k) - 1)}`, number(n)]),
    ),
    ...(r.keywords.length === 0
      ? []
      : [
          "## What it is about",
          ...r.keywords.flatMap((k) =>
            [["TF-IDF", k.tfIdf] as const, ["TextRank", k.textRank] as const]
              .filter(([, words]) => words.length > 0)
              .map(([how, words]) => `- ${k.language}, ${how}: ${words.map((w) => w.word).join(", ")}`),
          ),
        ]),
    ...(r.topics.length === 0
      ? []
      : ["Topics:", ...r.topics.map((t) => `- ${(100 * t.share).toFixed(0)} %: ${t.words.join(", ")}`)]),
    ...(r.kept.length === 0
      ? []
      : ["## Some that stay", ...r.kept.map((e) => `- \`${cell(e.id, 80)}\`: ${cell(e.text, 300)}`)]),
    ...(r.dropped.every((x) => x.examples.length === 0)
      ? []
      : [
          "## Some that went",
          ...r.dropped.flatMap((x) =>
            x.examples.slice(0, 2).map((e) => `- ${x.rule}: \`${cell(e.id, 80)}\`: ${e.why ?? ""} ${cell(e.text)}`),
          ),
        ]),
    ...(r.problems.count === 0
      ? []
      : [
          "## What could not be read",
          `${number(r.problems.count)}: ${Object.entries(r.problems.byCode)
            .map(([k, n]) => `${n} ${k}`)
            .join(", ")}.`,
          ...r.problems.first.slice(0, 50).map((p) => `- \`${cell(p.path, 100)}\`: ${cell(p.reason, 300)}`),
        ]),
  ];
  // Items of one list follow each other without an empty line.
  return `${out.reduce((text, part) => `${text}${part.startsWith("- ") && /(?:^|\n)- [^\n]*$/.test(text) ? "\n" : "\n\n"}${part}`)}\n`;
}
