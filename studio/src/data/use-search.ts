import { useEffect, useRef, useState } from "preact/hooks";
import type { DocumentsPage, FoundDocument } from "../../../src/serve/data-api.ts";
import { request } from "../server.ts";

/** What is looked for; an empty value is no wish. */
export interface Wish {
  readonly q: string;
  readonly status: string;
  readonly source: string;
  readonly rule: string;
  readonly language: string;
}

export interface Search {
  readonly documents: readonly FoundDocument[];
  /** Bytes that were looked at, of all. */
  readonly share: number;
  readonly busy: boolean;
  /** There may be more. */
  readonly next: string | undefined;
  readonly error: string | undefined;
  more(): void;
}

/** Documents that are shown before a person asks for more. */
const batch = 20;
/** Typing goes on for this long before the server is asked. */
const waitMs = 250;

/**
 * Searches a corpus. The server looks at a part of it a request; this goes on until there are enough documents or the end is reached, and begins again
 * when the wish changes.
 */
export function useSearch(name: string, wish: Wish): Search {
  const { q, status, source, rule, language } = wish;
  const [state, setState] = useState<Omit<Search, "more">>(nothing);
  const abort = useRef(new AbortController());

  const run = async (from: string | undefined, signal: AbortSignal) => {
    const asked = Object.entries({ q, status, source, rule, language }).filter(([, value]) => value !== "");
    setState((old) => ({ ...old, busy: true, error: undefined }));
    let at = from;
    let found = 0;
    try {
      do {
        const query = new URLSearchParams([
          ...asked,
          ["limit", String(batch - found)],
          ...(at ? [["at", at]] : []),
        ] as string[][]);
        const response = await request(`/api/data/${encodeURIComponent(name)}/documents?${query}`, { signal });
        const page = (await response.json()) as DocumentsPage;
        found += page.documents.length;
        const begins = at === undefined;
        at = page.next;
        const busy = at !== undefined && found < batch;
        setState((old) => ({
          documents: begins ? page.documents : [...old.documents, ...page.documents],
          share: page.size === 0 ? 1 : page.searched / page.size,
          next: at,
          busy,
          error: undefined,
        }));
      } while (at !== undefined && found < batch);
    } catch (error) {
      if (!signal.aborted) setState((old) => ({ ...old, busy: false, error: (error as Error).message }));
    }
  };

  useEffect(() => {
    const own = new AbortController();
    abort.current = own;
    setState((old) => ({ ...old, busy: true }));
    const timer = setTimeout(() => void run(undefined, own.signal), q === "" ? 0 : waitMs);
    return () => {
      clearTimeout(timer);
      own.abort();
    };
  }, [name, q, status, source, rule, language]);

  return {
    ...state,
    more: () => {
      if (state.next !== undefined && !state.busy) void run(state.next, abort.current.signal);
    },
  };
}

const nothing: Omit<Search, "more"> = { documents: [], share: 0, busy: true, next: undefined, error: undefined };
