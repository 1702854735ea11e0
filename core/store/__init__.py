"""What lies on disk below runs/."""
