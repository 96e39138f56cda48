"""The peers: of the suite `mpc` stock CrypTen 0.4.1 (dealer TTP or TFP) and SPU 0.9.5 (SEMI2K), measured as they ship;
of the suite `he` stock TenSEAL 0.3.18, which is in the project's own environment, and OpenFHE.

    python -m benchmarks.peers install [DIR]    # makes the environments, by default in .venv-peers (2 GB)
    python -m benchmarks.peers install --peer openfhe [DIR]    # one alone
    python -m benchmarks.peers JSON             # a worker of the suite mpc, see `benchmarks.mpc.workers`

What follows is of the suite `mpc`; `tenseal_he` and `openfhe_he` are workers of one process, see `serving`.

Each peer has an environment of its own, because they need different versions of numpy. The modules here run inside
them: they import the standard library, numpy, the peer, and one another, nothing of the project.

A worker starts one process per rank, and for CrypTen's TTP one more for the dealer. All get one thread
(OMP_NUM_THREADS=1): three processes share the cores of one machine, and more threads made each of them slower.
Inputs are shared before the clock starts. A repetition is a barrier of the ranks, then the function; its time is that
of the slowest rank. Figures beside the time:

* `rounds`: CrypTen: as its communicator counts at rank 0, requests to the dealer included, since they block.
  SPU: the messages that rank 0 sent.
* `sent_bytes`, `received_bytes`: CrypTen: its communicator counts both together; half of rank 1's figure. SPU: its own
  link details, of the rank with the most.
* `dealer_bytes`: CrypTen: what rank 0 counts beyond rank 1, for only rank 0 talks to the dealer; with TFP 0. SPU: 0;
  the first party makes the triples and sends corrections, which count as sent.

The counting of both costs time, so it is on in the first repetition only, which is not timed.
"""
