"""One tree for everything that can go wrong.

    EnclaveError
    ├── Refused              the other side, or a rule, said no                 (policy, plan, identity)
    │   ├── PolicyRefused    with the ids of the rules
    │   ├── Untrusted        unknown certificate, wrong role, bad signature, expired
    │   └── PlanMismatch     the parties would not run the same steps
    ├── BadInput             what a person or a peer handed in is wrong
    │   ├── BadModel         an ONNX file, a torch module or weights that cannot be run
    │   ├── BadData          rows, columns or values that do not fit the encoding
    │   ├── BadSpec          a job specification that contradicts itself
    │   ├── Unsupported      a function of a library that is refused here
    │   └── RangeExceeded    a value could leave the fixed-point range; names the layer
    ├── SessionError         the computation stopped
    │   ├── PeerLost         who and at which step
    │   └── Desynchronised   expected and found frame
    ├── StoreError           the node's own disk or database
    └── NotReady             nothing is wrong, but somebody has to act first

`code` is stable and may be tested for; `public` is what a peer or a user may read; `hint` says what to do
next. Messages are lower case, without a full stop, and name what was expected and what was found.
"""

from __future__ import annotations


class EnclaveError(Exception):
    """Base of all errors of this project."""

    code = "internal"
    retryable = False

    def __init__(self, public: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(public)
        self.public = public
        self.hint = hint
        if code:
            self.code = code


class Refused(EnclaveError):
    """Somebody had the right to say no, and did."""

    code = "refused"


class PolicyRefused(Refused):
    """A policy forbids it; `rules` are the stable ids of the rules that did."""

    code = "policy"

    def __init__(self, public: str, *, rules: tuple[str, ...], hint: str = "") -> None:
        super().__init__(public, hint=hint)
        self.rules = rules


class Untrusted(Refused):
    """A certificate, card or signature that this party does not accept."""

    code = "untrusted"


class PlanMismatch(Refused):
    """Two parties derived different plans from one specification."""

    code = "plan"

    def __init__(self, expected: bytes, found: bytes, *, who: str) -> None:
        super().__init__(
            f"plan digests differ: expected {expected.hex()[:16]}, found {found.hex()[:16]} at {who}",
            hint="the parties run different versions of the code, or a specification was changed on the way",
        )
        self.expected = expected
        self.found = found
        self.who = who


class BadInput(EnclaveError):
    """What was handed in is wrong."""

    code = "input"


class BadModel(BadInput):
    """A model that cannot be run, with the layer that stands in the way."""

    code = "input.model"


class BadData(BadInput):
    """Rows that do not fit the declared encoding.

    `public` names the column and says nothing that depends on a value: it may reach the buyer. `detail` (row
    counts, a parser's own words) is for the operator of the data's own node; it never travels.
    """

    code = "input.data"

    def __init__(self, public: str, *, hint: str = "", code: str = "", detail: str = "") -> None:
        super().__init__(public, hint=hint, code=code)
        self.detail = detail


class BadSpec(BadInput):
    """A job specification that contradicts itself or is malformed."""

    code = "input.spec"


class Unsupported(BadInput):
    """A function that exists in a library whose programs run here, but is wrong, insecure or not carried over."""

    code = "input.unsupported"

    def __init__(self, name: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"{name} is refused: {why}", hint=hint)
        self.name = name


class RangeExceeded(BadInput):
    """A value could leave the fixed-point range at a named layer."""

    code = "input.range"

    def __init__(self, layer: str, bound: float, limit: float, *, hint: str = "") -> None:
        super().__init__(
            f"values at {layer} can reach {bound:.6g}, the fixed-point range ends at {limit:.6g}",
            hint=hint or "scale the features down, lower the declared ranges, or use fewer fractional bits",
        )
        self.layer = layer
        self.bound = bound
        self.limit = limit


class SessionError(EnclaveError):
    """A running computation stopped. A retry is a new session with fresh randomness."""

    code = "session"
    retryable = True


class PeerLost(SessionError):
    """A peer went away, or did not answer before the deadline."""

    code = "session.peer_lost"

    def __init__(self, who: str, step: int, *, why: str = "") -> None:
        super().__init__(
            f"lost {who} at step {step}" + (f": {why}" if why else ""),
            hint=f"ask the operator of {who}; the job can be proposed again as a new session",
        )
        self.who = who
        self.step = step


class Desynchronised(SessionError):
    """A frame that is not the one the plan asks for."""

    code = "session.desynchronised"
    retryable = False

    def __init__(self, expected: str, found: str, *, who: str) -> None:
        super().__init__(f"unexpected frame from {who}: expected {expected}, found {found}")
        self.expected = expected
        self.found = found
        self.who = who


class StoreError(EnclaveError):
    """The node's own storage failed: disk full, a file of a newer version, a damaged ledger."""

    code = "store"


class NotReady(EnclaveError):
    """Nothing is wrong: a person or a party has to act before this can go on."""

    code = "not_ready"
    retryable = True

    def __init__(self, public: str, *, job_id: str = "", hint: str = "") -> None:
        super().__init__(public, hint=hint)
        self.job_id = job_id
