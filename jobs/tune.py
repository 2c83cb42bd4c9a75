"""Search for better settings as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python jobs/tune.py jobs/tune.yaml

The file's keys are the arguments of ``rayclf.tune``. ``ray job stop`` ends the search and keeps the best run so far in
``OUTPUT/best``; a search does not go on, so a new submission needs another output or ``overwrite``.
"""

import sys

import rayclf
from rayclf.cli.job import STOPPED, open_job


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, rayclf.tune) as job:
        found = rayclf.tune(**job.settings, on_event=job.log)
        state = found.record["state"]
        values = ", ".join(f"{name} {value}" for name, value in found.winner.values.items())
        job.log.say(f"{state}: best trial {found.winner.id} ({values}), artifact {found.artifact}")
        if state == "stopped":
            sys.exit(STOPPED)


if __name__ == "__main__":
    main()
