"""Deploy a classifier as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . -- python jobs/deploy.py jobs/deploy.yaml

The file's keys are the arguments of ``rayclf.serving.deployments.deploy``. The endpoint stays when the job has ended;
the same submission again deploys a new version, which takes over without a request lost.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

import rayclf
from rayclf.serving import deployments


def main():
    """Run the job; exits with 2 and one line where its author can mend it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    settings = yaml.safe_load(parser.parse_args().settings.read_text())
    try:
        print(json.dumps(deployments.deploy(**settings).public(), indent=2))
    except rayclf.RayclfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
