"""Find the photos that no label names, and remove them safely."""
