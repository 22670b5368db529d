import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { saveText } from "./storage.ts";

export type Theme = "auto" | "light" | "dark";

/** What is seen now: "auto" resolved by the system. */
export const ThemeContext = createContext<"light" | "dark">("light");
export const useTheme = () => useContext(ThemeContext);

export function initialTheme(): Theme {
  const { theme } = document.documentElement.dataset;
  return theme === "light" || theme === "dark" ? theme : "auto";
}

/** Kept as plain text, because early.js reads it before anything else is there. */
export function applyTheme(theme: Theme): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  saveText("theme", theme === "auto" ? undefined : theme);
}
