"""Deploy a classifier as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python jobs/deploy.py jobs/deploy.yaml

The file's keys are the arguments of ``rayclf.serving.deployments.deploy``. The endpoint stays when the job has ended;
the same submission again deploys a new version, which takes over without a request lost.
"""

import json
from typing import get_type_hints

from rayclf.cli.job import open_job
from rayclf.serving.deployments import deploy
from rayclf.serving.record import Options


def main():
    """Run the job; see :func:`rayclf.cli.job.open_job` for how it ends."""
    with open_job(__doc__, deploy, **get_type_hints(Options)) as job:
        print(json.dumps(deploy(**job.settings).public(), indent=2))


if __name__ == "__main__":
    main()
