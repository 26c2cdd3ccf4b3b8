"""Tell fitness poses apart in athletes' photos: S3 buckets, Ray Data, Ray Train, Ray Serve."""
