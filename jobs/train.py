"""Fine-tune a classifier as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python jobs/train.py jobs/train.yaml

The file's keys are the arguments of ``rayclf.train``. With ``resume: true`` the same submission goes on where a job
that died, or that ``ray job stop`` ended after a checkpoint, left off. ``rayclf runs follow RUN`` watches it.
"""

import rayclf
from rayclf.cli.job import open_job


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, rayclf.train) as job:
        run = rayclf.train(**job.settings, on_event=job.log)
        job.log.say(f"done: artifact {run.artifact}, report {run.folder / 'report.html'}")


if __name__ == "__main__":
    main()
