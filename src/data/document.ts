import { HowdahError } from "../tensor/errors.ts";

/** What is known of a document besides its text. Every field but `path` is left out when it is not known. */
export interface DocumentMeta {
  /** The file or URL that was opened. */
  readonly path: string;
  /** The member of an archive, with `!/` between archives inside archives. */
  readonly member?: string;
  /** Page of a PDF, or chapter of an EPUB, from 1. */
  readonly page?: number;
  /** Line of a JSONL or CSV file, row of a Parquet file, part of a long text, record of a WARC: from 1. */
  readonly record?: number;
  /** What it was before it became text, such as `text/html`. */
  readonly mediaType?: string;
  /** The encoding its bytes were in, if not UTF-8, by its WHATWG name. */
  readonly encoding?: string;
  /** Where it was published: of a page, a WARC record, or a field of the row. */
  readonly url?: string;
  readonly title?: string;
  /** When it was published: YYYY-MM-DD, or a full ISO 8601 time where one was given. */
  readonly date?: string;
  readonly author?: string;
  /** The language it says of itself: BCP 47, such as `en` or `zh-Hans`. Nobody has looked at the text. */
  readonly language?: string;
  readonly licence?: string;
  /** Other fields of a row that were asked for, as they were. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

/** The record that every stage of a data job passes on. Stages make new ones; they do not change the one they were given. */
export interface Document {
  /**
   * The same in every run over the same inputs, and different from every other document's: the source's name, the path (relative to
   * the folder it was found in), `!/` and the member, `#` and the page or record.
   */
  readonly id: string;
  /** Never empty. Line feeds end lines; an empty line ends a paragraph. */
  readonly text: string;
  /** The name of the source in the recipe, which mixtures and reports count by. */
  readonly source: string;
  readonly meta: DocumentMeta;
}

/** Why something is not among the documents. */
export const problemCodes = [
  /** Nothing there, or it went away while it was being read. */
  "missing",
  /** The system refused: permissions, a loop of links, a broken disk. */
  "unreadable",
  /** No bytes, or no text in them. */
  "empty",
  /** Not what its name or its header says, or broken off: a bad checksum, not JSON, a truncated archive. */
  "malformed",
  /** Bytes that are not text in any encoding we know. */
  "binary",
  /** More than a limit of {@link ReadLimits}. */
  "too-large",
  /** Grows beyond reason when unpacked. */
  "bomb",
  /** Needs a password. */
  "encrypted",
  /** A format, codec or feature that is not read. */
  "unsupported",
  /** An optional package is not installed; the reason names it. */
  "package",
  /** A server did not answer, or with an error. */
  "network",
] as const;
export type ProblemCode = (typeof problemCodes)[number];

/** A line of the job's report: something that could not be read, and why. The job goes on. */
export interface Problem {
  /** Where: the path or URL, `!/` and the member, `:` and the line. */
  readonly path: string;
  readonly code: ProblemCode;
  /** For a person: what is wrong, and what to do where there is something to do. */
  readonly reason: string;
  readonly source: string;
}

export type Item = Document | Problem;

/**
 * A page, PDF, Word file or EPUB that has been read but not yet turned into text: what a worker is given. `extractRaw` turns it into
 * documents. Its bytes may be handed over to another thread.
 */
export interface Raw {
  readonly id: string;
  readonly source: string;
  readonly format: "html" | "pdf" | "docx" | "epub";
  readonly bytes: Uint8Array;
  readonly meta: DocumentMeta;
}

export const isRaw = (item: object): item is Raw => "bytes" in item;
export const isProblem = (item: object): item is Problem => "reason" in item;

/** What a source of documents is: a name, and a stream that can be started again and gives the same items in the same order. */
export interface Source {
  readonly name: string;
  read(options?: { readonly signal?: AbortSignal }): AsyncGenerator<Item>;
}

/** Thrown inside a reader and turned into a {@link Problem} at its edge, where the path is known. */
export class ReadError extends HowdahError {
  declare readonly code: ProblemCode;
  /** Said after the path: `:12` for a line, `#3` for a page. */
  readonly place: string;
  constructor(code: ProblemCode, message: string, options?: ErrorOptions & { readonly place?: string }) {
    super(code, message, options);
    this.place = options?.place ?? "";
  }
}

/** How much of one thing is read at a time. Bytes, unless said otherwise. */
export interface ReadLimits {
  /** A page, PDF, Word file, EPUB, JSON file: what must be in memory as a whole. */
  readonly whole: number;
  /** A line of JSONL, a row of CSV. */
  readonly line: number;
  /** UTF-16 units of one document of a plain text file; longer files become several documents, cut between paragraphs. */
  readonly text: number;
  /** What an archive or compressed file may unpack to, in all. */
  readonly unpacked: number;
  /** How many times larger than packed. Counted after the first 16 MB. */
  readonly ratio: number;
  /** Members of an archive. */
  readonly members: number;
}

const MB = 2 ** 20;
export const defaultLimits: ReadLimits = {
  whole: 64 * MB,
  line: 32 * MB,
  text: 4 * MB,
  unpacked: 1024 * 1024 * MB,
  ratio: 400,
  members: 1_000_000,
};
