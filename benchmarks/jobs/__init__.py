"""The suite `jobs`: whole jobs on real data, encrypted and in the clear."""

from benchmarks.jobs.suite import JobSuite

__all__ = ["JobSuite"]
