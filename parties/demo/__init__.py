"""The main job on one machine: real processes, mutual TLS, real data, and every number beside its plaintext twin."""

from parties.demo.outcome import DemoOutcome, Figure, Job
from parties.demo.story import run_demo

__all__ = ["DemoOutcome", "Figure", "Job", "run_demo"]
