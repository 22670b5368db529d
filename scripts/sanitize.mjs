// `npm run test:sanitize`: the native kernels under the address and undefined-behaviour sanitizers, in their own build
// folder: first the C++ tests, then the native tests of the suite with the sanitized addon loaded into Node.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { say, step } from "./lib/console.mjs";
import { ask, run, SetupError } from "./lib/process.mjs";
import { filesUnder, root } from "./lib/state.mjs";
import { cmakeBuild, findCompiler, main, requireTools, setup } from "./setup.mjs";

const build = join(root, "native", "build-sanitize");

/** Tests that reach every kernel: their reference sides take little of the time. */
const suites = [
  "test/unit/native",
  "test/conformance/native",
  "test/conformance/control",
  "test/unit/quantized",
  "test/unit/sample-token",
  "test/unit/generate-cache",
  "test/unit/tokenizer-native",
  "test/unit/tokenizer-pieces",
  "test/unit/tokenizer-train-kinds",
];

/** The sanitizer's run-time library has to be in the process before Node's own allocator. */
function runtimeLibrary() {
  const compiler = (findCompiler() ?? "c++").split(" ")[0];
  const clang = (ask(compiler, ["--version"]) ?? "").includes("clang");
  const name =
    process.platform === "darwin"
      ? "libclang_rt.asan_osx_dynamic.dylib"
      : clang
        ? `libclang_rt.asan-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so`
        : "libasan.so";
  const path = (ask(compiler, [`-print-file-name=${name}`]) ?? "").trim();
  if (!existsSync(path))
    throw new SetupError(
      `The compiler ${compiler} has no sanitizer library ${name}: install its sanitizers (Debian: libasan comes with g++).`,
    );
  return path;
}

await main(async () => {
  if (process.platform === "win32")
    throw new SetupError("The sanitizer run is for Linux and macOS: run it there, or in WSL.");
  await setup();
  requireTools();
  // The portable kernels and the best ones that this machine runs: all four sets would take twice the time and say little more.
  const { isa } = createRequire(import.meta.url)(join(root, "native", "build", "howdah.node")).facts();
  const sets = [...new Set(["portable", isa])];
  await step("Building the native kernels with sanitizers", (note) =>
    cmakeBuild(
      build,
      // Little optimisation: the kernels' unrolled templates take minutes to compile otherwise.
      [
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g",
        "-DHOWDAH_SANITIZE=address,undefined",
        `-DHOWDAH_ISAS=${sets.join(";")}`,
      ],
      ["howdah", "howdah_kernel_test"],
      note,
    ),
  );
  const options = {
    ASAN_OPTIONS: "detect_leaks=0:abort_on_error=0:halt_on_error=1",
    UBSAN_OPTIONS: "halt_on_error=1:print_stacktrace=1",
  };
  const kernelTest = filesUnder(build, (path) => path.endsWith("CMakeFiles")).find((file) =>
    /howdah_kernel_test$/.test(file),
  );
  if (kernelTest === undefined) throw new SetupError("The build made no howdah_kernel_test.");
  const kernels = await run(kernelTest, process.argv.slice(2), {
    cwd: root,
    env: { ...process.env, ...options },
    inherit: true,
  });
  say(kernels.code === 0 ? "C++ kernel tests: no finding" : `C++ kernel tests: failed with exit code ${kernels.code}`);
  const preload = process.platform === "darwin" ? "DYLD_INSERT_LIBRARIES" : "LD_PRELOAD";
  const suite = await run(process.execPath, [join(root, "node_modules", "vitest", "vitest.mjs"), "run", ...suites], {
    cwd: root,
    env: { ...process.env, ...options, [preload]: runtimeLibrary(), HOWDAH_NATIVE: join(build, "howdah.node") },
    inherit: true,
  });
  if (kernels.code !== 0 || suite.code !== 0) process.exitCode = 1;
});
