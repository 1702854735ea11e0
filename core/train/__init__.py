"""One training run: losses, objective, optimizer, schedule, loop, selection and checkpoint."""
