import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { Change, ModelInfo, RunSummary, ServerInfo } from "../../src/serve/api.ts";
import type { CorpusList } from "../../src/serve/data-api.ts";
import { follow, getJson } from "./server.ts";

/** What there is on the server now. */
export interface LiveLists {
  /** Undefined until the first answer. */
  readonly models: readonly ModelInfo[] | undefined;
  readonly runs: readonly RunSummary[] | undefined;
  readonly data: CorpusList | undefined;
  readonly info: ServerInfo | undefined;
  readonly connected: boolean;
  /** A connection was tried. */
  readonly asked: boolean;
}

const nothing: LiveLists = {
  models: undefined,
  runs: undefined,
  data: undefined,
  info: undefined,
  connected: false,
  asked: false,
};

export const LiveContext = createContext<LiveLists>(nothing);
export const useLive = () => useContext(LiveContext);

/** Loads the lists, and again whenever the server says that one has changed. For the root of the page only. */
export function useLiveLists(): LiveLists {
  const [lists, setLists] = useState(nothing);
  useEffect(() => {
    const abort = new AbortController();
    const put = (part: Partial<LiveLists>) => setLists((old) => ({ ...old, ...part }));
    // A load that fails is followed by the stream's own reconnection, which loads everything again.
    const refresh = async (change: Change) => {
      try {
        if (change === "models") put({ models: (await getJson<{ models: ModelInfo[] }>("/api/models")).models });
        else if (change === "data") put({ data: await getJson<CorpusList>("/api/data") });
        else put({ runs: (await getJson<{ runs: RunSummary[] }>("/api/runs")).runs });
      } catch {}
    };
    void getJson<ServerInfo>("/api/info").then(
      (info) => put({ info }),
      () => {},
    );
    void follow(
      () => "/api/changes",
      (data) => void refresh(JSON.parse(data) as Change),
      abort.signal,
      (connected) => put({ connected, asked: true }),
    );
    return () => abort.abort();
  }, []);
  return lists;
}
