// `npm run test:neon`: the kernels compiled for 64-bit ARM and their C++ tests run there: on this machine where it is one, else by a cross
// compiler and qemu's user emulation. The test executable needs no Node.
import { join } from "node:path";
import { duration, say, step } from "./lib/console.mjs";
import { ask, run, SetupError } from "./lib/process.mjs";
import { filesUnder, root } from "./lib/state.mjs";
import { cmakeBuild, main } from "./setup.mjs";

const build = join(root, "native", "build-neon");

/** The emulator's command, or nothing on ARM itself. */
function tools() {
  if (process.arch === "arm64") return { options: [], emulator: [] };
  const compiler = process.env.HOWDAH_CROSS_CXX ?? "aarch64-linux-gnu-g++";
  const emulator = ["qemu-aarch64", "qemu-aarch64-static"].find((name) => ask(name, ["--version"]) !== undefined);
  const lacking = [
    ask("cmake", ["--version"]) === undefined ? "cmake" : "",
    ask(compiler, ["--version"]) === undefined ? "g++-aarch64-linux-gnu" : "",
    emulator === undefined ? "qemu-user" : "",
  ].filter(Boolean);
  if (lacking.length > 0)
    throw new SetupError(
      `The NEON kernels are tested by a cross compiler and an emulator, and ${lacking.length === 1 ? "one thing is" : "some things are"} missing: on Debian or Ubuntu run \`sudo apt install ${lacking.join(" ")}\` (another compiler: HOWDAH_CROSS_CXX), or run this on a 64-bit ARM machine.`,
    );
  const target = (ask(compiler, ["-dumpmachine"]) ?? "").trim();
  const options = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", `-DCMAKE_CXX_COMPILER=${compiler}`];
  // Where Debian keeps the target's libraries.
  return { options, emulator: [emulator, "-L", `/usr/${target}`] };
}

await main(async () => {
  const { options, emulator } = tools();
  await step("Building the kernel tests for 64-bit ARM", (note) =>
    cmakeBuild(
      build,
      ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG", "-DHOWDAH_TEST_ONLY=ON", ...options],
      ["howdah_kernel_test"],
      note,
    ),
  );
  const test = filesUnder(build, (path) => path.endsWith("CMakeFiles")).find((f) => /howdah_kernel_test$/.test(f));
  if (test === undefined) throw new SetupError("The build made no howdah_kernel_test.");
  const [command, ...before] = [...emulator, test];
  const start = performance.now();
  // NEON unless told otherwise: the portable kernels are tested natively.
  const env = { ...process.env, HOWDAH_ISA: process.env.HOWDAH_ISA ?? "neon" };
  const { code } = await run(command, [...before, ...process.argv.slice(2)], { cwd: root, env, inherit: true });
  say(
    `Kernel tests on NEON: ${code === 0 ? "passed" : `failed with exit code ${code}`}, ${duration(performance.now() - start)}`,
  );
  process.exitCode = code === 0 ? 0 : 1;
});
