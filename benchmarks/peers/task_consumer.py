"""Ray Serve's own `@serve.task_consumer`: its Celery adapter on a Redis and a Ray of their own.

Results are stored in Redis. A task is acknowledged when it has ended; one whose worker died comes back when
the visibility timeout of Celery's Redis transport is over, and then runs a second time. Nothing is fenced.
The Celery worker is a thread of the replica: to kill the one is to kill the other.

Modes: ``drain`` a full queue; ``trickle`` single tasks; ``kill`` a process while tasks arrive.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}

import ray
import redis
from ray import serve
from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

QUEUE = "noop"
WORK_S = 0.05
"""How long a task takes whose worker may be killed."""
PATIENCE_S = 120.0
RESULTS = "celery-task-meta-"


@contextmanager
def broker(folder: Path, durable: bool) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a Redis; calling what is yielded kills it and starts it on the same files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("redis-server") or str(Path(sys.executable).with_name("redis-server"))
    command = [program, "--port", str(port), "--dir", str(folder), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "yes" if durable else "no"]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        if running:
            running[-1].kill()
            running[-1].wait()
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return running[-1]

    start()
    os.environ["BENCH_REDIS_PORT"] = str(port)
    try:
        wait(lambda: answers(port), "Redis")
        yield start
    finally:
        running[-1].kill()


def answers(port: int) -> bool:
    """Return True if Redis answers."""
    with suppress(redis.RedisError):
        return bool(redis.Redis(port=port).ping())
    return False


def wait(condition: Callable[[], Any], what: str, every_s: float = 0.005) -> None:
    """Poll until ``condition()`` is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: waited {PATIENCE_S:g} s for {what}")
        time.sleep(every_s)


def deploy(port: int, concurrency: int, prefetch: int, visibility_s: int, runs: str) -> Any:
    """Start the consumer and return an adapter that adds tasks."""
    url = f"redis://127.0.0.1:{port}"
    config = TaskProcessorConfig(
        queue_name=QUEUE,
        adapter_config=CeleryAdapterConfig(
            broker_url=f"{url}/0",
            backend_url=f"{url}/1",
            app_custom_config={"worker_prefetch_multiplier": prefetch},
            broker_transport_options={"visibility_timeout": visibility_s},
        ),
    )

    @serve.deployment(max_ongoing_requests=concurrency, ray_actor_options={"num_cpus": 0.1})
    @task_consumer(task_processor_config=config)
    class Consumer:
        @task_handler(name="noop")
        def noop(self, params: Any) -> Any:
            return params

        @task_handler(name="marked")
        def marked(self, number: int) -> int:
            line = f"{number} {time.time()} {os.getpid()}\n".encode()
            descriptor = os.open(runs, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(descriptor, line)
            os.close(descriptor)
            time.sleep(WORK_S)
            return number

    serve.run(Consumer.bind(), route_prefix=None)
    adapter = instantiate_adapter_from_config(config)
    wait(lambda: adapter._app.control.ping(timeout=0.5), "the consumer")
    return adapter


def drain(adapter: Any, port: int, tasks: int) -> float:
    """Fill the queue while nothing is consumed; return the seconds from then until all results are there."""
    stored = redis.Redis(port=port, db=1)
    adapter._app.control.cancel_consumer(QUEUE, reply=True)
    stored.flushdb()
    for _ in range(tasks):
        adapter.enqueue_task_sync("noop", args=[PAYLOAD])
    ready()
    # What asks for a status while enqueuing leaves no key; a result is one key.
    before = stored.dbsize()
    started = time.perf_counter()
    adapter._app.control.add_consumer(QUEUE)
    wait(lambda: stored.dbsize() - before >= tasks, "the results")
    return time.perf_counter() - started


def trickle(adapter: Any, port: int, rate: float, tasks: int) -> list[float]:
    """Milliseconds of single tasks, from before they are sent until Redis publishes their results."""
    done: dict[str, float] = {}
    listener = redis.Redis(port=port, db=1).pubsub()
    listener.psubscribe(f"{RESULTS}*")

    def listen() -> None:
        for message in listener.listen():
            if message["type"] == "pmessage":
                done[message["channel"].decode().removeprefix(RESULTS)] = time.perf_counter()

    Thread(target=listen, daemon=True).start()
    sent: dict[str, float] = {}
    started = time.perf_counter()
    for number in range(tasks):
        time.sleep(max(started + number / rate - time.perf_counter(), 0))
        at = time.perf_counter()
        sent[adapter.enqueue_task_sync("noop", args=[PAYLOAD]).id] = at
    wait(lambda: all(task in done for task in sent), "the results of single tasks")
    return [1000 * (done[task] - at) for task, at in sent.items()]


def kill(adapter: Any, restart: Callable[[], Any], victim: str, runs: Path, rate: float, tasks: int) -> Any:
    """Kill ``victim`` when a third of the tasks has been sent; tasks go on arriving."""
    sent: dict[int, float] = {}
    refused = 0
    killed = 0.0
    started = time.perf_counter()
    for number in range(tasks):
        time.sleep(max(started + number / rate - time.perf_counter(), 0))
        if number == tasks // 3:
            killed = time.time()
            if victim == "broker":
                restart()
            else:
                os.kill(int(runs.read_text().split()[-1]), signal.SIGKILL)
        at = time.time()
        try:
            adapter.enqueue_task_sync("marked", args=[number], retry=False)
            sent[number] = at
        except Exception:
            refused += 1  # its sender knows that it was not taken
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and set(sent) - {number for number, _ in starts(runs)}:
        time.sleep(0.1)
    time.sleep(1)
    return {"sent": sent, "killed": killed, "starts": starts(runs), "refused": refused}


def starts(runs: Path) -> list[tuple[int, float]]:
    """Every run of a task: its number and when it began."""
    return [(int(line.split()[0]), float(line.split()[1])) for line in runs.read_text().splitlines()]


def main() -> None:
    """Run one mode."""
    a = arguments(
        mode="drain", concurrency=20, prefetch=4, durable=0, visibility=3600, rate=50.0, victim="replica"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Redis and Ray are not left behind
    settings = {"concurrency": a.concurrency, "prefetch": a.prefetch, "durable": a.durable}
    folder = Path(tempfile.mkdtemp(prefix="organism-consumer-"))
    runs = folder / "runs"
    runs.touch()
    with broker(folder, bool(a.durable)) as restart:
        port = int(os.environ["BENCH_REDIS_PORT"])
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            serve.start(proxy_location="Disabled")
            adapter = deploy(port, a.concurrency, a.prefetch, a.visibility, str(runs))
            samples: Any = None
            if a.mode == "drain":
                seconds = drain(adapter, port, a.tasks)
            else:
                ready()
                began = time.perf_counter()
                if a.mode == "trickle":
                    samples = trickle(adapter, port, a.rate, a.tasks)
                else:
                    samples = kill(adapter, restart, a.victim, runs, a.rate, a.tasks)
                seconds = time.perf_counter() - began
            if samples is not None:
                settings["samples"] = samples
            report("ray", a.tasks, seconds, **settings)
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
