"""One Prefect task run an item, on `RayTaskRunner`: how Prefect alone would fan items out.

Runs in this project's environment and against its Prefect server and Ray; touches no table. A first round of
runs, not counted, starts the Ray workers.
"""

from __future__ import annotations

import time

from benchmarks.peers.drained import PAYLOAD, arguments, ready, report

WARM_UP = 10


def drain(tasks: int, cpus: float) -> float:
    """Run one task run for each of ``tasks`` items and return the seconds it took."""
    import os

    from organism_flows.blocks.process_environment import join_stack
    from organism_flows.blocks.settings import load_settings

    join_stack(load_settings().home)  # before Prefect and Ray are imported

    import ray
    from prefect import flow, task
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    @task(persist_result=False)
    def noop(params: dict[str, object]) -> dict[str, object]:
        return params

    @flow(
        log_prints=False,
        task_runner=RayTaskRunner(address=os.environ["RAY_ADDRESS"], init_kwargs={"log_to_driver": False}),
    )
    def fan_out() -> float:
        def run(count: int) -> None:
            with remote_options(num_cpus=cpus):
                futures = [noop.submit(PAYLOAD) for _ in range(count)]
            assert [future.result() for future in futures] == [PAYLOAD] * count

        run(WARM_UP)
        ready()
        started = time.perf_counter()
        run(tasks)
        return time.perf_counter() - started

    seconds = fan_out()
    ray.shutdown()
    return seconds


if __name__ == "__main__":
    a = arguments(cpus=0.25)
    report("prefect", a.tasks, drain(a.tasks, a.cpus), cpus=a.cpus)
