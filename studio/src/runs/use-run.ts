import { useEffect, useState } from "preact/hooks";
import { parse } from "../../../src/runs/json.ts";
import { applyEvent, newRunState, type RunState } from "../../../src/runs/state.ts";
import type { EventsPage, RunEvent } from "../../../src/serve/api.ts";
import { follow } from "../server.ts";

export type LogLine = Extract<RunEvent, { type: "log" }>;

export interface LiveRun {
  readonly state: RunState;
  readonly log: readonly LogLine[];
  /** False until the first page has come. */
  readonly loaded: boolean;
  /** Grows with each change: `state` is changed in place. */
  readonly version: number;
}

/** Draws at most this often, however fast events come. */
const redrawMs = 250;

/** A run's state, kept up to date from its event stream; after a broken connection it goes on from where it was. */
export function useRun(name: string): LiveRun {
  const [live, setLive] = useState<LiveRun>(() => fresh());
  useEffect(() => {
    const abort = new AbortController();
    let { state, log } = fresh();
    let lines: LogLine[] = [...log];
    let offset = 0;
    let version = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const redraw = () => {
      timer = undefined;
      version++;
      log = lines;
      setLive({ state, log, loaded: true, version });
    };
    setLive(fresh());
    const take = (data: string) => {
      const page = parse(data) as EventsPage;
      if (page.reset) {
        state = newRunState();
        lines = [];
      }
      offset = page.next;
      for (const event of page.events) {
        applyEvent(state, event);
        if (event.type === "log") lines = [...lines.slice(-499), event];
      }
      timer ??= setTimeout(redraw, page.more ? redrawMs : Math.min(redrawMs, version === 0 ? 0 : redrawMs));
    };
    const path = () => `/api/runs/${encodeURIComponent(name)}/events/stream?offset=${offset}`;
    void follow(path, take, abort.signal);
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [name]);
  return live;
}

function fresh(): LiveRun {
  return { state: newRunState(), log: [], loaded: false, version: 0 };
}
