import { useEffect, useState } from "preact/hooks";

/** `#/runs`, `#/runs/<name>`, `#/chat`, `#/chat/<model>`. */
export interface Route {
  readonly page: "runs" | "chat";
  readonly run: string | undefined;
  readonly model: string | undefined;
}

export function parseRoute(hash: string): Route {
  const [, page, ...rest] = hash.split("/");
  let name: string | undefined;
  try {
    name = rest.length > 0 && rest[0] !== "" ? decodeURIComponent(rest.join("/")) : undefined;
  } catch {
    name = undefined; // half an escape, typed by hand
  }
  return page === "chat" ? { page, run: undefined, model: name } : { page: "runs", run: name, model: undefined };
}

export const runLink = (name: string) => `#/runs/${encodeURIComponent(name)}`;
export const chatLink = (model: string) => `#/chat/${encodeURIComponent(model)}`;

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const change = () => setRoute(parseRoute(location.hash));
    window.addEventListener("hashchange", change);
    return () => window.removeEventListener("hashchange", change);
  }, []);
  return route;
}
