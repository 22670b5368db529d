import { useEffect, useState } from "preact/hooks";
import { request } from "../server.ts";

export interface Loaded<T> {
  readonly value: T | undefined;
  readonly error: string | undefined;
}

/** The answer at `path`, and again when `version` changes; the last one stays until the next is there. */
export function useLoaded<T>(path: string | undefined, version: unknown = 0): Loaded<T> {
  const [loaded, setLoaded] = useState<Loaded<T> & { path?: string | undefined }>({
    value: undefined,
    error: undefined,
  });
  useEffect(() => {
    if (path === undefined) return;
    const abort = new AbortController();
    request(path, { signal: abort.signal })
      .then((response) => response.json() as Promise<T>)
      .then((value) => setLoaded({ value, error: undefined, path }))
      .catch((error: Error) => abort.signal.aborted || setLoaded({ value: undefined, error: error.message, path }));
    return () => abort.abort();
  }, [path, version]);
  return loaded.path === path ? loaded : { value: undefined, error: undefined };
}
