// What every peer on Node is asked for and prints; the same lines as benchmarks/peers/drained.py.
//
// One Node process uses one core. A peer therefore drains with several worker processes: the main process
// forks this program's file again, and each fork calls `work`.

import { fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

export const PAYLOAD = { customer: "c-1029", amount: 12.5, items: [1, 2, 3] };
const EVERY_MS = 2;
const PATIENCE_MS = 300_000;
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Return `--dsn`, `--tasks` and an option for each of `settings`, whose value is the default. */
export function options(settings) {
  const names = ["dsn", "tasks", ...Object.keys(settings)];
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, { type: "string" }])) });
  const chosen = Object.entries(settings).map(([name, value]) => [name, Number(values[name] ?? value)]);
  return { dsn: values.dsn, tasks: Number(values.tasks), settings: Object.fromEntries(chosen) };
}

/** Say that the tasks are in the tables, and wait until the harness has read its counters. */
export async function ready() {
  console.log("ready");
  await input.next();
}

/** Print the result line, and stay until the harness has read its counters again. */
export async function report(name, tasks, seconds, settings, latencies_ms = []) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  const { version } = JSON.parse(readFileSync(file));
  console.log(JSON.stringify({ version, tasks, seconds, rate: tasks / seconds, settings, latencies_ms }));
  await input.next();
  process.exit(0);
}

/** Return true in a process that `drain` has forked. */
export const isWorker = () => process.env.BENCH_WORKER === "1";

let handled = 0;
let began = 0;

/** Count a task that the handler has run, in a worker process. */
export function count(tasks = 1) {
  began ||= Date.now();
  handled += tasks;
}

/** Report to the main process what `count` counts. */
export function reportCounts() {
  process.on("disconnect", () => process.exit(1));
  setInterval(() => handled && process.send({ handled, began }), EVERY_MS);
}

/**
 * Run worker processes until no task is left.
 *
 * Returns the seconds from the first call of a handler until `left()` is 0. `left` is asked only once every
 * handler has been called, because a count costs the database something.
 */
export async function drain(file, processes, tasks, left) {
  const counts = new Map();
  const workers = Array.from({ length: processes }, () =>
    fork(file, process.argv.slice(2), { env: { ...process.env, BENCH_WORKER: "1" } }),
  );
  workers.forEach((worker) => worker.on("message", (message) => counts.set(worker.pid, message)));
  const deadline = Date.now() + PATIENCE_MS;
  const pause = () => new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  const sum = () => [...counts.values()].reduce((total, each) => total + each.handled, 0);
  while (sum() < tasks || (await left()) > 0) {
    if (Date.now() > deadline) throw new Error(`${sum()} of ${tasks} tasks were handled in ${PATIENCE_MS} ms`);
    await pause();
  }
  const seconds = (Date.now() - Math.min(...[...counts.values()].map((each) => each.began))) / 1000;
  process.on("exit", () => workers.forEach((worker) => worker.kill("SIGKILL")));
  return seconds;
}
