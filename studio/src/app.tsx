import type { JSX } from "preact";
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { ChatPage } from "./chat/chat-page.tsx";
import { DataPage } from "./data/data-page.tsx";
import { initialLanguage, type Language, useWords, WordsContext, words } from "./language.ts";
import { LiveContext, useLiveLists } from "./live.ts";
import { useRoute } from "./route.ts";
import { RunsPage } from "./runs/runs-page.tsx";
import { onKeyWanted, setKey } from "./server.ts";
import { saveText } from "./storage.ts";
import { applyTheme, initialTheme, type Theme, ThemeContext } from "./theme.ts";
import { Dialog, IconButton } from "./ui/controls.tsx";
import { Mark } from "./ui/icons.tsx";

const nextTheme: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
const themeIcon = { auto: "auto", light: "sun", dark: "moon" } as const;
const themeText = { auto: "themeAuto", light: "themeLight", dark: "themeDark" } as const;

export function App(): JSX.Element {
  const [language, setLanguage] = useState<Language>(initialLanguage);
  const [theme, setTheme] = useState<Theme>(initialTheme);
  const systemDark = useSystemDark();
  const said = useMemo(() => words(language), [language]);
  const live = useLiveLists();
  const route = useRoute();
  const { t } = said;

  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  }, [language]);

  const toggleLanguage = () => {
    const next = language === "zh" ? "en" : "zh";
    saveText("language", next);
    setLanguage(next);
  };
  const toggleTheme = () => {
    applyTheme(nextTheme[theme]);
    setTheme(nextTheme[theme]);
  };
  const { page } = route;
  const pages = ["runs", "data", "chat"] as const;

  return (
    <WordsContext.Provider value={said}>
      <ThemeContext.Provider value={theme === "auto" ? (systemDark ? "dark" : "light") : theme}>
        <LiveContext.Provider value={live}>
          <button type="button" class="skip" onClick={() => document.getElementById("main")?.focus()}>
            {t("skipToContent")}
          </button>
          <header class="top">
            <a class="brand" href="#/runs" aria-label="howdah">
              <Mark />
              <span>howdah</span>
            </a>
            <nav>
              {pages.map((name) => (
                <a key={name} href={`#/${name}`} aria-current={page === name ? "page" : undefined}>
                  {t(name)}
                </a>
              ))}
            </nav>
            <div class="tools">
              <button
                type="button"
                class="quiet"
                onClick={toggleLanguage}
                aria-label={t("switchLanguage")}
                title={t("switchLanguage")}
              >
                <span lang={language === "zh" ? "en" : "zh-CN"}>{language === "zh" ? "EN" : "中"}</span>
              </button>
              <IconButton icon={themeIcon[theme]} label={t(themeText[theme])} onClick={toggleTheme} />
            </div>
          </header>
          {!live.connected && live.asked && (
            <p class="banner" role="status">
              {t("offline")}
            </p>
          )}
          {/* The pages stay: a reply goes on being written while its reader looks at the training. */}
          <main id="main" tabIndex={-1}>
            <div hidden={page !== "runs"} class="page">
              <RunsPage name={route.run} shown={page === "runs"} />
            </div>
            <div hidden={page !== "data"} class="page">
              {page === "data" && <DataPage route={route} />}
            </div>
            <div hidden={page !== "chat"} class="page">
              <ChatPage model={route.model} />
            </div>
          </main>
          <KeyDialog />
        </LiveContext.Provider>
      </ThemeContext.Provider>
    </WordsContext.Provider>
  );
}

/** Asks for the key when the server wants one. */
function KeyDialog(): JSX.Element | null {
  const { t } = useWords();
  const [wanted, setWanted] = useState(false);
  const [value, setValue] = useState("");
  useEffect(() => onKeyWanted(() => setWanted(true)), []);
  const use = useCallback(
    (event: Event) => {
      event.preventDefault();
      setKey(value.trim());
      location.reload();
    },
    [value],
  );
  if (!wanted) return null;
  return (
    <Dialog title={t("keyTitle")} onClose={() => setWanted(false)}>
      <form onSubmit={use}>
        <label class="field">
          <span>{t("key")}</span>
          <input
            type="password"
            autocomplete="off"
            value={value}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
          <small>{t("keyHint")}</small>
        </label>
        <button type="submit" class="primary" disabled={value.trim() === ""}>
          {t("keyUse")}
        </button>
      </form>
    </Dialog>
  );
}

function useSystemDark(): boolean {
  const query = useMemo(() => matchMedia("(prefers-color-scheme: dark)"), []);
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const change = () => setDark(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, [query]);
  return dark;
}
