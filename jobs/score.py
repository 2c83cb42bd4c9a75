"""Score a corpus as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python jobs/score.py jobs/score.yaml

The file's keys are the arguments of ``rayclf.score``. The same submission again goes on where a job that died, or that
``ray job stop`` ended, left off. ``rayclf score --status OUTPUT`` tells how far it is.
"""

import rayclf
from rayclf.cli.job import open_job
from rayclf.cli.show_score import summary_line


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, rayclf.score) as job:
        summary = rayclf.score(**job.settings, on_event=job.log)
        job.log.say(f"done: {summary_line(summary)}")


if __name__ == "__main__":
    main()
