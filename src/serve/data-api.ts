/** What the Studio's page Data and the server say to each other under /api/data. Types only: the Studio imports this file. */

/** An element of GET /api/data, the one that changed last first. */
export interface CorpusSummary {
  name: string;
  /** "unfinished" while there is no report: the job was stopped, or failed. */
  status: "finished" | "unfinished" | "running";
  /** Epoch milliseconds. */
  updated: number;
  /** Of what stays. Absent without a report. */
  documents?: number;
  bytes?: number;
  tokens?: number;
}

/** GET /api/data */
export interface CorpusList {
  /** Where corpora are looked for, as the server's person named it. */
  folder: string;
  corpora: CorpusSummary[];
}

/** GET /api/data/:name */
export interface CorpusDetail {
  name: string;
  status: CorpusSummary["status"];
  updated: number;
  /** recipe.yaml as it is on disk. */
  recipe?: string;
  report?: CorpusReport;
}

type Counts = Readonly<Record<string, number>>;
interface Size {
  readonly documents: number;
  readonly bytes: number;
}
export interface RankedWord {
  readonly word: string;
}
export interface CorpusCluster {
  readonly kind: "exact" | "near";
  readonly size: number;
  readonly members: readonly { readonly id: string; readonly text: string }[];
}

/** What the page reads of a corpus's report.json (`DataReport`, to which the server holds it). */
export interface CorpusReport {
  readonly version: 1;
  readonly name: string;
  readonly inputs: number;
  readonly read: Size;
  readonly cleaned: Size;
  readonly final: Size & { readonly tokens: number };
  readonly dropped: readonly { readonly rule: string; readonly documents: number }[];
  readonly taken: Counts;
  readonly duplicates: {
    readonly exact: number;
    readonly near: number;
    readonly passages: number;
    readonly substringCharacters: number;
    readonly clusters: readonly CorpusCluster[];
  };
  readonly leaks: Counts;
  readonly languages: Counts;
  readonly licences: Counts;
  readonly formats: Counts;
  /** Kept documents by the power of two below their length in characters. */
  readonly lengths: Counts;
  readonly sources: readonly {
    readonly name: string;
    readonly tokens: number;
    /** Tokens asked of it and written, and `asked` as a share of the mixture. */
    readonly asked: number;
    readonly realised: number;
    readonly share: number;
    readonly epochs: number;
    readonly documents: number;
    readonly bytes: number;
  }[];
  readonly tokenizer: { readonly vocabulary: number; readonly bytesPerToken: number };
  readonly shards: readonly { readonly path: string; readonly tokens: number; readonly documents: number }[];
  readonly holdout: { readonly tokens: number; readonly documents: number };
  readonly keywords: readonly {
    readonly language: string;
    readonly tfIdf: readonly RankedWord[];
    readonly textRank: readonly RankedWord[];
  }[];
  readonly topics: readonly { readonly share: number; readonly words: readonly string[] }[];
  readonly problems: {
    readonly count: number;
    readonly byCode: Counts;
    readonly first: readonly { readonly path: string; readonly code: string; readonly reason: string }[];
  };
  readonly seconds: Counts;
}

/** What became of a document: it stays, a filter took it, or it is the same as another. */
export type DocumentStatus = "kept" | "dropped" | "duplicate";

export interface DropReason {
  filter: string;
  rule: string;
  /** What was measured, and where the line is; null where the rule is a yes or no. */
  value: number | null;
  threshold: number;
  /** One sentence, in English, with the document's own numbers. */
  why: string;
}

export interface DocumentHead {
  /** Where its line is: the file in the corpus's folder, `@`, the byte. */
  at: string;
  id: string;
  source: string;
  status: DocumentStatus;
  title?: string;
  url?: string;
  /** As guessed from the text. */
  language?: string;
  /** Of a dropped document. */
  reason?: DropReason;
  /** Of a duplicate: the document that stays for it. */
  same?: { id: string; kind: "exact" | "near" };
}

export interface FoundDocument extends DocumentHead {
  /** The text around the first place that was found, or its beginning. Line feeds are spaces. */
  excerpt: string;
  /** [from, to) in the excerpt. */
  matches: [number, number][];
  /** Characters of the text that is kept on disk. */
  length: number;
}

/** GET /api/data/:name/documents?q=&status=&source=&rule=&language=&id=&at=&limit= */
export interface DocumentsPage {
  documents: FoundDocument[];
  /** Where to go on (`at`); absent at the end. A request looks at a bounded number of bytes, so that a page may be empty and not the last. */
  next?: string;
  /** Bytes before `next`, and of all that is looked at. */
  searched: number;
  size: number;
}

/** GET /api/data/:name/document?at=&from= */
export interface DocumentView extends DocumentHead {
  /** Characters `from` up to at most 100,000 more. */
  text: string;
  from: number;
  length: number;
  /** Only the beginning of a document that a filter took is kept on disk. */
  beginning: boolean;
  /** What is known of it besides its text. */
  meta: Record<string, unknown>;
  /** Of a document that stays: those that went because they are the same, the first ones. */
  copies: { id: string; kind: "exact" | "near" }[];
}

/** GET /api/data/:name/duplicates?from=&limit=, the largest first */
export interface DuplicatesPage {
  clusters: {
    kind: "exact" | "near";
    /** Members, the one that stays included. */
    size: number;
    kept: string;
    /** Those that go, the first ones. */
    others: { id: string; kind: "exact" | "near" }[];
    /** Beginnings of texts by id, where the report has them. */
    texts: Record<string, string>;
  }[];
  total: number;
  /** False when the list on disk ends before the duplicates do. */
  complete: boolean;
}

export interface ComparedRow {
  key: string;
  a: number;
  b: number;
}

/** GET /api/data/:name/compare/:other */
export interface CorpusComparison {
  a: string;
  b: string;
  numbers: ComparedRow[];
  /** Documents by what they are counted by: where the two are equal, too. */
  tables: Record<"dropped" | "languages" | "licences" | "formats" | "lengths" | "sources", ComparedRow[]>;
  /** Keywords (TF-IDF) by language: in one report only, or in both. */
  words: { language: string; onlyA: string[]; onlyB: string[]; both: string[] }[];
  /** Settings of the recipes that differ; absent in the one that does not have it. */
  settings: { key: string; a?: string; b?: string }[];
}
