import type { JSX } from "preact";
import type { CorpusDetail, CorpusSummary } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";
import { corpusLink, type Route } from "../route.ts";
import { TabPanel, Tabs } from "../ui/controls.tsx";
import { Compare } from "./compare.tsx";
import { Documents } from "./documents.tsx";
import { DuplicatesTab } from "./duplicates.tsx";
import { Overview } from "./overview.tsx";
import { CorpusStatus } from "./parts.tsx";
import { useLoaded } from "./use-loaded.ts";

const tabIds = ["overview", "documents", "duplicates", "compare", "recipe"] as const;

interface CorpusViewProps {
  corpus: CorpusSummary;
  corpora: readonly CorpusSummary[];
  route: Route;
}

/** Everything about one corpus. Which tab is open is in the address. */
export function CorpusView({ corpus, corpora, route }: CorpusViewProps): JSX.Element {
  const { t, language } = useWords();
  const { name } = corpus;
  const path = `/api/data/${encodeURIComponent(name)}`;
  const { value: detail, error } = useLoaded<CorpusDetail>(path, `${corpus.updated} ${corpus.status}`);
  const tab = tabIds.find((id) => id === route.tab) ?? "overview";
  const label = (id: (typeof tabIds)[number]) => t(id === "compare" ? "compareShort" : id);
  const date = new Date(corpus.updated).toLocaleString(language === "zh" ? "zh-CN" : "en", {
    dateStyle: "medium",
    timeStyle: "short",
  });
  const report = detail?.report;
  const unfinished = <p class="muted">{detail === undefined ? (error ?? t("loading")) : t("corpusNoReport")}</p>;
  return (
    <article class="run corpus">
      <header class="run-head">
        <h1>{name}</h1>
        <CorpusStatus status={corpus.status} />
        {corpus.documents !== undefined && <span class="muted">{t("madeOn", { date })}</span>}
      </header>
      <Tabs
        tabs={tabIds.map((id) => ({ id, label: label(id) }))}
        selected={tab}
        onSelect={(id) => {
          location.hash = corpusLink(name, id);
        }}
        label={name}
      />
      <TabPanel id={tab}>
        {tab === "overview" && (report ? <Overview name={name} report={report} /> : unfinished)}
        {tab === "documents" && <Documents name={name} report={report} query={route.query} />}
        {tab === "duplicates" && <DuplicatesTab name={name} report={report} />}
        {tab === "compare" &&
          (report ? <Compare name={name} corpora={corpora} other={route.query.get("with") ?? ""} /> : unfinished)}
        {tab === "recipe" && (detail?.recipe === undefined ? unfinished : <pre class="recipe">{detail.recipe}</pre>)}
      </TabPanel>
    </article>
  );
}
