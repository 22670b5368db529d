import { useEffect, useState } from "preact/hooks";

/** `#/runs`, `#/runs/<name>`, `#/data`, `#/data/<corpus>/<tab>?<query>`, `#/chat`, `#/chat/<model>`. Another object after each change of the address. */
export interface Route {
  readonly page: "runs" | "data" | "chat";
  readonly run: string | undefined;
  readonly model: string | undefined;
  readonly corpus: string | undefined;
  /** Of a corpus. */
  readonly tab: string | undefined;
  readonly query: URLSearchParams;
}

export function parseRoute(hash: string): Route {
  const mark = hash.indexOf("?");
  const query = new URLSearchParams(mark < 0 ? "" : hash.slice(mark + 1));
  const [, page, ...rest] = (mark < 0 ? hash : hash.slice(0, mark)).split("/");
  const nowhere = { run: undefined, model: undefined, corpus: undefined, tab: undefined, query };
  if (page === "data") return { ...nowhere, page, corpus: decoded(rest[0]), tab: decoded(rest[1]) };
  const name = decoded(rest.join("/"));
  return page === "chat" ? { ...nowhere, page, model: name } : { ...nowhere, page: "runs", run: name };
}

function decoded(part: string | undefined): string | undefined {
  try {
    return part === undefined || part === "" ? undefined : decodeURIComponent(part);
  } catch {
    return undefined; // half an escape, typed by hand
  }
}

export const runLink = (name: string) => `#/runs/${encodeURIComponent(name)}`;
export const chatLink = (model: string) => `#/chat/${encodeURIComponent(model)}`;
/** @param query left out where a value is empty */
export function corpusLink(name: string, tab?: string, query: Readonly<Record<string, string>> = {}): string {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "")).toString();
  const path = `#/data/${encodeURIComponent(name)}${tab === undefined ? "" : `/${tab}`}`;
  return asked === "" ? path : `${path}?${asked}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const change = () => setRoute(parseRoute(location.hash));
    window.addEventListener("hashchange", change);
    return () => window.removeEventListener("hashchange", change);
  }, []);
  return route;
}
