"""One training job: the step, the worker's loop, its checkpoints, the driver, the run folder and its report."""
