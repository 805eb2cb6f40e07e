// graphile-worker with a named queue for each key, its nearest means: the jobs of a queue run one at a time.
//
// Without the local queue: with it, jobs of one named queue run beside each other (graphile/worker#621).

import pg from "pg";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { options, ready, report } from "./drained.mjs";

const BIG = "big";
/** What a job takes that arrives steadily, in milliseconds. */
const CALL_MS = 20;
/** After the last job was sent. One that has not ended by then has taken so long. */
const PATIENCE_MS = 10_000;
const { dsn, tasks, settings } = options({ keys: 999, rate: 0, backlog: 0, limited: 1, concurrency: 24 });
const { keys, rate, backlog, limited, concurrency } = settings;
const logger = new Logger(() => () => {});
const ENQUEUE = `
  SELECT 1 FROM graphile_worker.add_jobs(
    ARRAY(SELECT ('call', json_build_object('number', number), queue, NULL, NULL, NULL, NULL, NULL)
                 ::graphile_worker.job_spec
          FROM unnest($1::int[], $2::text[]) AS job(number, queue)))`;

const numbers = Array.from({ length: tasks }, (_, number) => number);
const queueOf = (number) => (limited ? `k${number % keys}` : null);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const utils = await makeWorkerUtils({ connectionString: dsn, logger });
await utils.migrate();
const client = new pg.Client(dsn);
await client.connect();
await client.query(ENQUEUE, [Array(backlog).fill(null), Array(backlog).fill(limited ? BIG : null)]);
if (!rate) await client.query(ENQUEUE, [numbers, numbers.map(queueOf)]);
await client.query("ANALYZE");
await client.query("CHECKPOINT");

const sent = new Map();
const ended = new Map();
let begun = 0;
let handled = 0;
const call = async ({ number }) => {
  begun ||= performance.now();
  handled += 1;
  if (rate) await sleep(CALL_MS);
  if (number !== null) ended.set(number, performance.now());
};

await ready();
await run({
  preset: { worker: { connectionString: dsn, concurrentJobs: concurrency, maxPoolSize: 10, logger } },
  taskList: { call },
  noHandleSignals: true,
});
const started = performance.now();
if (rate) {
  for (const number of numbers) {
    await sleep(Math.max(started + (1000 * number) / rate - performance.now(), 0));
    sent.set(number, performance.now());
    await utils.addJob("call", { number }, { queueName: queueOf(number) });
  }
}
const deadline = performance.now() + PATIENCE_MS;
while (ended.size < tasks && performance.now() < deadline) await sleep(2);
const now = performance.now();
const latencies = [...sent].map(([number, at]) => (ended.get(number) ?? now) - at);
await report("graphile-worker", handled, (now - begun) / 1000, { concurrency }, latencies);
