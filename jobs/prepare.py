"""Part, check and write labelled data as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python jobs/prepare.py jobs/prepare.yaml

The file's keys are the arguments of ``rayclf.prepare``. A job that fails or is stopped leaves no data set behind; the
same submission begins again.
"""

import rayclf
from rayclf.cli.job import open_job


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, rayclf.prepare) as job:
        record = rayclf.prepare(**job.settings, on_event=job.log).record
        parts = ", ".join(f"{name} {part.rows}" for name, part in record.parts.items())
        job.log.say(f"done: {record.read} rows read, {record.quarantined} set aside; {parts}")


if __name__ == "__main__":
    main()
