"""Download the photos of several buckets into a folder, and go on where it was broken off."""
