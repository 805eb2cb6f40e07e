// graphile-worker in its batched mode: a local queue of `size` jobs a process, completions in batches.
//
// It stores no results: a finished job's row is deleted, by its id alone. `delay` is completeJobBatchDelay in
// milliseconds; below 0, each job is completed by a statement of its own.

import pg from "pg";
import { Logger, makeWorkerUtils, run, WorkerPreset } from "graphile-worker";
import { count, drain, isWorker, options, PAYLOAD, ready, report, reportCounts } from "./drained.mjs";

const { dsn, tasks, settings } = options({ size: 500, concurrency: 24, delay: 0, processes: 1 });
const logger = new Logger(() => () => {});
const ENQUEUE = `
  SELECT 1 FROM graphile_worker.add_jobs(
    ARRAY(SELECT ('noop', $1::json, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec
          FROM generate_series(1, $2)))`;
const LEFT = "SELECT count(*)::int AS left FROM graphile_worker._private_jobs";

async function work() {
  reportCounts();
  await run({
    preset: {
      extends: [WorkerPreset],
      worker: {
        connectionString: dsn,
        concurrentJobs: settings.concurrency,
        maxPoolSize: 10,
        completeJobBatchDelay: settings.delay,
        failJobBatchDelay: settings.delay,
        localQueue: { size: settings.size },
        logger,
      },
    },
    taskList: { noop: async () => count() },
    noHandleSignals: true,
  });
}

async function main() {
  const utils = await makeWorkerUtils({ connectionString: dsn, logger });
  await utils.migrate();
  await utils.release();
  const client = new pg.Client(dsn);
  await client.connect();
  await client.query(ENQUEUE, [JSON.stringify(PAYLOAD), tasks]);
  await client.query("ANALYZE");
  await client.query("CHECKPOINT");
  await ready();
  const left = async () => (await client.query(LEFT)).rows[0].left;
  const seconds = await drain(import.meta.filename, settings.processes, tasks, left);
  await report("graphile-worker", tasks, seconds, settings);
}

await (isWorker() ? work() : main());
