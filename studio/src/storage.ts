/** localStorage that never throws: it may be full, or forbidden. */
export function load<T>(name: string, fallback: T): T {
  try {
    const text = localStorage.getItem(`howdah.${name}`);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

export function save(name: string, value: unknown): void {
  saveText(name, JSON.stringify(value));
}

export function saveText(name: string, text: string | undefined): void {
  try {
    if (text === undefined) localStorage.removeItem(`howdah.${name}`);
    else localStorage.setItem(`howdah.${name}`, text);
  } catch {
    // Then it is forgotten with the tab.
  }
}
