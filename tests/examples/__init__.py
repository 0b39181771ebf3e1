"""What every example must satisfy."""
