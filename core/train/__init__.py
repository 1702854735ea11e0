"""One training run: losses, objective, optimiser, schedule, loop, selection and checkpoint."""
