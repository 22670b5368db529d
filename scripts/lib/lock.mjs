// Optional packages that npm left out of package-lock.json (see complete-lock.mjs).

const systems = ["aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "sunos", "win32"];
const processors = ["arm64", "arm", "ia32", "loong64", "mips64el", "ppc64", "riscv64", "s390x", "x64"];

/** Where Node would find `name` asked for by the package at `path`: the nearest node_modules upwards. */
function installedAt(packages, path, name) {
  for (let at = path; ; ) {
    const candidate = `${at === "" ? "" : `${at}/`}node_modules/${name}`;
    if (packages[candidate] !== undefined) return candidate;
    if (at === "") return undefined;
    const cut = at.lastIndexOf("/node_modules/");
    at = cut < 0 ? "" : at.slice(0, cut);
  }
}

/** Adds what is missing to a parsed lock file, in place; says what. */
export function completeLock(lock) {
  const added = [];
  for (const [path, entry] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      if (path === "" || installedAt(lock.packages, path, name) !== undefined) continue;
      const words = name.split(/[/-]/);
      const os = words.find((word) => systems.includes(word));
      const cpu = words.find((word) => processors.includes(word));
      if (os === undefined || cpu === undefined || !/^\d+\.\d+\.\d+/.test(version)) {
        throw new Error(`${path} wants ${name}@${version}, and its name does not say the platform: add it by hand.`);
      }
      const libc = os === "linux" ? { libc: [words.includes("musl") ? "musl" : "glibc"] } : {};
      const dev = entry.dev === true ? { dev: true } : {};
      lock.packages[`node_modules/${name}`] = { version, cpu: [cpu], ...dev, ...libc, optional: true, os: [os] };
      added.push(`${name}@${version}`);
    }
  }
  const sorted = Object.entries(lock.packages).sort(([a], [b]) => a.localeCompare(b, "en"));
  lock.packages = Object.fromEntries(sorted);
  return added;
}
