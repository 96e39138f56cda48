"""CrypTen on this project's sessions: programs written for CrypTen 0.4.1 run, and nothing of it that carries
security or cost is left.

CrypTen is the programming model: `CrypTensor`, its autograd, `crypten.nn`, `crypten.optim`. Its transport, random
generators, providers, protocols, approximations and ways to reveal are replaced or refused. `install` puts a finder
in front of Python's import system that decides over every module of the package (`catalogue`):

- *kept*: stock source, loaded only if its SHA-256 is the one that was reviewed;
- *ours*: a module of the same name with our functions in it; the stock file is never executed;
- *refused*: importing it, or using what it exports, raises `Unsupported`;
- a module that is not in the catalogue, of another version say, is refused.

So stock code that was not reviewed cannot run in this process at all. In the kept modules some names are replaced
after import (`patches`). A test walks the installed package and fails on every name that touches transport,
randomness, providers, protocols or reveals and is not accounted for.

Jobs do not come through here: the engine uses the protocols directly, because importing torch and crypten costs
seconds and a CrypTen program has no plan. The fence is for programs: `run_program` behind a `FreeSession`, with a
`FreeDealer` as the last rank. Nothing here imports torch or crypten until `install` or a session of a program.

    install()
    session = FreeSession(channel, parties, program_digest(parties, source))
    with behind(Fence(session, allow_open=True)):
        import crypten
        ...
    session.finish()
"""

from __future__ import annotations
