// From a fresh clone to something that runs: dependencies, native kernels, compiled TypeScript, the Studio.
// Plain Node, no dependencies: it runs before anything is installed. What has not changed is not built again.
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, extname, join, relative, sep } from "node:path";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";
import { duration, say, step } from "./lib/console.mjs";
import { ask, run, SetupError } from "./lib/process.mjs";
import { filesUnder, hashOf, readState, remember, root, withLock } from "./lib/state.mjs";

const at = (...parts) => join(root, ...parts);
const machine = `${process.platform}-${process.arch}`;
const addon = at("native", "build", "howdah.node");

function checkNode() {
  const wanted = JSON.parse(readFileSync(at("package.json"), "utf8")).engines.node.replace(/[^\d.]/g, "");
  const [major, minor] = process.versions.node.split(".").map(Number);
  const [needMajor, needMinor] = wanted.split(".").map(Number);
  if (major < needMajor || (major === needMajor && minor < needMinor)) {
    throw new SetupError(
      `howdah needs Node ${wanted} or newer; this is Node ${process.versions.node} (https://nodejs.org).`,
    );
  }
}

// --- dependencies ---

/** Whether node_modules holds just what package-lock.json names (somebody ran npm by hand). */
function installedMatchesLock() {
  try {
    const lock = JSON.parse(readFileSync(at("package-lock.json"), "utf8")).packages;
    const installed = JSON.parse(readFileSync(at("node_modules", ".package-lock.json"), "utf8")).packages;
    return Object.entries(lock).every(([path, wanted]) => {
      const found = installed[path];
      // Optional packages are those of other platforms.
      return path === "" || (found === undefined ? wanted.optional === true : found.version === wanted.version);
    });
  } catch {
    return false;
  }
}

async function dependencies(state) {
  const hash = hashOf([at("package-lock.json")], [machine]);
  if (state.dependencies === hash && existsSync(at("node_modules"))) return false;
  if (state.dependencies === undefined && installedMatchesLock()) {
    remember("dependencies", hash);
    return false;
  }
  await step("Installing npm packages (npm ci, install scripts off)", () => {
    const npm = process.env.npm_execpath;
    const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    if (npm !== undefined && /npm-cli\.c?js$/.test(npm)) return run(process.execPath, [npm, ...args], { cwd: root });
    return run("npm", args, { cwd: root, shell: process.platform === "win32" });
  });
  remember("dependencies", hash);
  return true;
}

// --- native kernels ---

/** The first C++ compiler that understands C++20, or undefined. On Windows CMake finds Visual Studio by itself. */
export function findCompiler() {
  if (process.platform === "win32") return "";
  const probe =
    "#include <atomic>\n#include <concepts>\n#include <span>\ntemplate <std::integral T> T f(T x) { return x; }\nint main() { return f(0); }\n";
  for (const name of process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"]) {
    const [command, ...flags] = name.split(" ");
    if (ask(command, [...flags, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"], probe) !== undefined) return name;
  }
  return undefined;
}

/** One sentence that names the packages to install, or undefined if nothing is missing. */
export function missingTools({ cmake, compiler }) {
  if (cmake && compiler) return undefined;
  const what = [cmake ? "" : "CMake", compiler ? "" : "a C++20 compiler"].filter(Boolean).join(" and ");
  const debian = [cmake ? "" : "cmake", compiler ? "" : "g++"].filter(Boolean).join(" ");
  const mac = [compiler ? "" : "xcode-select --install", cmake ? "" : "brew install cmake"]
    .filter(Boolean)
    .join("` and `");
  const windows = [cmake ? "" : "Kitware.CMake", compiler ? "" : "Microsoft.VisualStudio.2022.BuildTools"]
    .filter(Boolean)
    .join("` and `winget install ");
  return `howdah builds its native kernels and did not find ${what}: on Debian or Ubuntu run \`sudo apt install ${debian}\`, on macOS \`${mac}\`, on Windows \`winget install ${windows}\`${compiler ? "" : ' (with the workload "Desktop development with C++" and its Clang tools)'}.`;
}

/** CMake refuses a build folder made for another path (a checkout that was copied or moved). */
export function dropForeignCache(build, source) {
  const cache = join(build, "CMakeCache.txt");
  if (!existsSync(cache)) return;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, "utf8"))?.[1];
  if (home !== undefined && home !== source.split(sep).join("/")) rmSync(build, { recursive: true });
}

/** Configures and builds `native/` into `build`. */
export async function cmakeBuild(build, options, targets, note) {
  dropForeignCache(build, at("native"));
  // The kernels use vector types that Clang has and Microsoft's own compiler lacks; Visual Studio brings both.
  const toolset = process.platform === "win32" ? ["-T", "ClangCL"] : [];
  await run("cmake", ["-S", at("native"), "-B", build, ...toolset, ...options], { cwd: root });
  const jobs = String(availableParallelism());
  const target = targets.length === 0 ? [] : ["--target", ...targets];
  await run("cmake", ["--build", build, "--config", "Release", "--parallel", jobs, ...target], {
    cwd: root,
    onLine: (line) => {
      const percent = /^\[\s*(\d+%)\]/.exec(line)?.[1];
      if (percent !== undefined) note(percent);
    },
  });
}

export function requireTools() {
  const cmake = ask("cmake", ["--version"]) !== undefined;
  const compiler = findCompiler();
  const missing = missingTools({ cmake, compiler: compiler !== undefined });
  if (missing !== undefined) throw new SetupError(missing);
}

async function native(state) {
  if (!existsSync(at("native", "CMakeLists.txt"))) return false;
  const sources = filesUnder(at("native"), (path) => /^(build[^/]*|test)(\/|$)/.test(path));
  const headers = at("node_modules", "node-api-headers", "package.json");
  const hash = hashOf([...sources, headers], [machine, process.env.CXX ?? "", process.env.CXXFLAGS ?? ""]);
  if (state.native === hash && existsSync(addon)) return false;
  requireTools();
  await step("Building the native kernels (CMake, C++20)", async (note) => {
    await cmakeBuild(at("native", "build"), ["-DCMAKE_BUILD_TYPE=Release"], [], note);
    note("loading");
    // With every symbol resolved now: by default a missing one would only show when it is first called.
    const load = "process.dlopen({ exports: {} }, process.argv[1], os.constants.dlopen.RTLD_NOW ?? 0)";
    await run(process.execPath, ["-e", load, addon]);
  });
  remember("native", hash);
  return true;
}

// --- TypeScript ---

/** Removes compiled files whose source is gone, and copies what tsc does not (SQL, JSON) beside the code that reads it. */
function tidyDist(sources) {
  const stems = new Set(sources.map((file) => relative(at("src"), file).replace(/\.ts$/, "")));
  for (const file of filesUnder(at("dist"), (path) => path === ".tsbuildinfo")) {
    const name = relative(at("dist"), file);
    if (!stems.has(name) && !stems.has(name.replace(/(\.d\.ts|\.js)(\.map)?$/, ""))) rmSync(file);
  }
  for (const file of sources.filter((source) => extname(source) !== ".ts")) {
    const to = join(at("dist"), relative(at("src"), file));
    mkdirSync(dirname(to), { recursive: true });
    copyFileSync(file, to);
  }
}

const tsc = at("node_modules", "typescript", "bin", "tsc");

async function typescript(state) {
  const sources = filesUnder(at("src"));
  const hash = hashOf([...sources, at("tsconfig.json")], [state.dependencies ?? ""]);
  if (state.typescript === hash && existsSync(at("dist", ".tsbuildinfo"))) return false;
  await step("Compiling TypeScript (tsc)", async () => {
    // Incremental builds trust what is in dist; if it was removed in part, start again.
    const emitted = filesUnder(at("dist")).length;
    const expected = sources.filter((file) => file.endsWith(".ts")).length;
    if (emitted < expected) rmSync(at("dist"), { recursive: true, force: true });
    await run(process.execPath, [tsc, "-p", at("tsconfig.json")], { cwd: root });
    tidyDist(sources);
  });
  remember("typescript", hash);
  return true;
}

// --- the Studio ---

async function studio(state) {
  if (!existsSync(at("studio", "vite.config.ts"))) return false;
  const sources = [
    ...filesUnder(at("studio"), (path) => /^(dist|node_modules)(\/|$)/.test(path)),
    // What the page shares with the library: the run's state and its JSON.
    ...["state", "json", "events"].map((name) => at("src", "runs", `${name}.ts`)),
  ];
  const hash = hashOf(sources, [state.dependencies ?? ""]);
  if (state.studio === hash && existsSync(at("studio", "dist", "index.html"))) return false;
  await step("Building the Studio (vite)", () =>
    run(process.execPath, [at("node_modules", "vite", "bin", "vite.js"), "build", at("studio"), "--logLevel", "warn"], {
      cwd: root,
    }),
  );
  remember("studio", hash);
  return true;
}

/** Brings everything up to date; `native: false` leaves the kernels alone (the reference backend needs none). */
export async function setup({ native: withNative = true } = {}) {
  const start = performance.now();
  checkNode();
  const changed = await withLock(
    async () => {
      const done = [await dependencies(readState())];
      if (withNative) done.push(await native(readState()));
      done.push(await typescript(readState()), await studio(readState()));
      return done.some(Boolean);
    },
    (holder) => say(`Waiting for another set-up of this checkout (process ${holder}) ...`),
  );
  const took = duration(performance.now() - start);
  say(changed ? `Set-up done: ${took}` : `Set-up: everything is up to date (${took})`);
}

/** Runs a script's main function: a SetupError is shown without its stack, then `onFailure` has the last word. */
export async function main(work, onFailure = () => {}) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`${error.message}\n`);
    onFailure();
    process.exit(error.signal === "SIGINT" ? 130 : 1);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main(() => setup());
