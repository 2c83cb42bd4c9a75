r"""Measure a classifier on labelled rows as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml --entrypoint-num-gpus 1 \
        -- python jobs/evaluate.py jobs/evaluate.yaml

The file's keys are the arguments of ``rayclf.evaluate``, and ``output``, a JSON file for all metrics, local or in
object storage. It is one process: without GPUs give ``--entrypoint-num-cpus 8`` in the place of the GPU.
"""

import rayclf
from rayclf.cli.job import open_job
from rayclf.cli.job_log import metrics_line
from rayclf.storage import write_json


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, rayclf.evaluate, output=str) as job:
        output = job.settings.pop("output", None)
        metrics = rayclf.evaluate(**job.settings, on_progress=lambda done, of: job.log.progress("rows", done, of))
        if output is not None:
            write_json(output, metrics)
        job.log.say(f"done: {metrics_line(metrics)}")


if __name__ == "__main__":
    main()
