// pg-boss in batches: each worker fetches `size` jobs, handles them and completes them by one statement.
//
// It keeps the rows, as completed, until its retention ends. With `results` 1 the handler returns an output for
// each job, and they are stored; with 0 nothing is.

import pg from "pg";
import { PgBoss } from "pg-boss";
import { count, drain, isWorker, options, PAYLOAD, ready, report, reportCounts } from "./drained.mjs";

const { dsn, tasks, settings } = options({ size: 500, concurrency: 2, processes: 1, results: 0 });
const ENQUEUE = 5000;
const LEFT = "SELECT count(*)::int AS left FROM pgboss.job WHERE name = 'noop' AND state < 'completed'";

async function work() {
  reportCounts();
  const boss = new PgBoss({ connectionString: dsn, supervise: false, schedule: false, migrate: false });
  await boss.start();
  const how = {
    batchSize: settings.size,
    localConcurrency: settings.concurrency,
    pollingIntervalSeconds: 0.5,
    burstWhenBatchFull: true,
    perJobResults: settings.results === 1,
  };
  await boss.work("noop", how, async (jobs) => {
    count(jobs.length);
    if (settings.results) return jobs.map(({ id, data }) => ({ id, status: "completed", output: data }));
  });
}

async function main() {
  const boss = new PgBoss({ connectionString: dsn, supervise: false, schedule: false });
  await boss.start();
  await boss.createQueue("noop");
  for (let start = 0; start < tasks; start += ENQUEUE) {
    const jobs = Array.from({ length: Math.min(ENQUEUE, tasks - start) }, () => ({ data: PAYLOAD }));
    await boss.insert("noop", jobs);
  }
  await boss.stop();
  const client = new pg.Client(dsn);
  await client.connect();
  await client.query("ANALYZE");
  await client.query("CHECKPOINT");
  await ready();
  const left = async () => (await client.query(LEFT)).rows[0].left;
  const seconds = await drain(import.meta.filename, settings.processes, tasks, left);
  await report("pg-boss", tasks, seconds, settings);
}

await (isWorker() ? work() : main());
