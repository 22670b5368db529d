// Runs before the first paint, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("howdah.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const language = localStorage.getItem("howdah.language") || navigator.language;
  document.documentElement.lang = /^zh/i.test(language) ? "zh-CN" : "en";
} catch {
  // Storage may be forbidden; the defaults do.
}
