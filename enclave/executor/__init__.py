"""One order = one process = one session: the shared session core, the worker's main, and the local executor."""
