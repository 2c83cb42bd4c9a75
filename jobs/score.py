"""Score a corpus as a Ray job, with the settings of a YAML file.

    ray job submit --working-dir . -- python jobs/score.py jobs/score.yaml

The file's keys are the arguments of ``rayclf.score``. The same submission again goes on where a job that died stopped.
"""

import argparse
import sys
from pathlib import Path

import yaml

import rayclf


def tell(event):
    """A line that reads well in a log for each unit that is done."""
    if event["kind"] == "unit":
        left = "" if event["seconds_left"] is None else f", {event['seconds_left']:.0f} s left"
        rate = f"{event['rows_per_second']:.0f} rows/s"
        print(f"{event['rows']}/{event['of']} rows, {event['errors']} with errors, {rate}{left}")


def main():
    """Run the job; exits with 2 and one line where its author can mend it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    settings = yaml.safe_load(parser.parse_args().settings.read_text())
    if isinstance(settings.get("replicas"), list):
        settings["replicas"] = tuple(settings["replicas"])
    try:
        print(rayclf.score(**settings, on_event=tell))
    except rayclf.RayclfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
