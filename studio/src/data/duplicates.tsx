import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { CorpusReport, DuplicatesPage } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";
import { corpusLink } from "../route.ts";
import { getJson } from "../server.ts";
import { Jump } from "./reader.tsx";

type Cluster = DuplicatesPage["clusters"][number];

/** Clusters of documents that are the same, the largest first; each member can be read. */
export function DuplicatesTab({ name, report }: { name: string; report: CorpusReport | undefined }): JSX.Element {
  const { t, number } = useWords();
  const [clusters, setClusters] = useState<readonly Cluster[]>([]);
  const [page, setPage] = useState<DuplicatesPage>();
  const [error, setError] = useState<string>();
  const load = async (from: number, gone: () => boolean) => {
    try {
      const next = await getJson<DuplicatesPage>(`/api/data/${encodeURIComponent(name)}/duplicates?from=${from}`);
      if (gone()) return;
      setPage(next);
      setClusters((old) => [...(from === 0 ? [] : old), ...next.clusters]);
    } catch (problem) {
      if (!gone()) setError((problem as Error).message);
    }
  };
  useEffect(() => {
    let left = false;
    void load(0, () => left);
    return () => {
      left = true;
    };
  }, [name, report]);
  if (error !== undefined) return <p class="note failed">{error}</p>;
  if (page === undefined) return <p class="muted">{t("loading")}</p>;
  const counts = report?.duplicates;
  return (
    <div class="duplicates">
      <p class="muted">
        {counts && t("duplicatesSummary", { exact: number(counts.exact), near: number(counts.near) })}{" "}
        {counts && counts.passages > 0 && t("passagesTaken", { count: number(counts.passages) })}{" "}
        {counts &&
          counts.substringCharacters > 0 &&
          t("substringsTaken", { count: number(counts.substringCharacters) })}
      </p>
      {clusters.length === 0 && <p class="muted">{t("noDuplicates")}</p>}
      {!page.complete && <p class="note">{t("duplicatesPartial")}</p>}
      <ol>
        {clusters.map((cluster, i) => (
          <li key={cluster.kept}>
            <ClusterView name={name} cluster={cluster} open={i === 0} />
          </li>
        ))}
      </ol>
      {clusters.length < page.total && (
        <button type="button" class="button" onClick={() => void load(clusters.length, () => false)}>
          {t("searchOn")}
        </button>
      )}
    </div>
  );
}

function ClusterView({ name, cluster, open }: { name: string; cluster: Cluster; open: boolean }): JSX.Element {
  const { t, number } = useWords();
  const members = [{ id: cluster.kept, kind: undefined }, ...cluster.others];
  const hidden = cluster.size - members.length;
  const text = Object.values(cluster.texts)[0] ?? "";
  const read = (at: string) => {
    location.hash = corpusLink(name, "documents", { at });
  };
  return (
    <details class="cluster" open={open}>
      <summary>
        <b>{t(cluster.kind === "exact" ? "clusterExact" : "clusterNear", { count: number(cluster.size) })}</b>
        <span>{text === "" ? cluster.kept : text.replace(/\s+/g, " ")}</span>
      </summary>
      <ul>
        {members.map(({ id, kind }) => (
          <li key={id}>
            <span class={`doc-status ${kind === undefined ? "kept" : "duplicate"}`}>
              {t(kind === undefined ? "clusterKept" : kind === "exact" ? "clusterExactMember" : "clusterNearMember")}
            </span>
            <div>
              <Jump name={name} id={id} status={kind === undefined ? "kept" : "duplicate"} onOpen={read} />
              {cluster.texts[id] !== undefined && <p>{cluster.texts[id]}</p>}
            </div>
          </li>
        ))}
      </ul>
      {hidden > 0 && <p class="muted small">{t("andMore", { count: number(hidden) })}</p>}
    </details>
  );
}
