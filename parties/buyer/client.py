"""`Buyer`: the Python client. The command line is a thin layer over it."""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from enclave.clock import Clock, SystemClock
from enclave.errors import BadInput, EnclaveError, NotReady
from enclave.identity import Identity, TrustStore
from enclave.messages import Encoding
from parties.buyer import preparing
from parties.buyer.encodings import read_encoding
from parties.buyer.engines import ASKED, Make, compare, drafted, evaluating, teaching
from parties.buyer.network import Catalogue, Network, gather
from parties.buyer.preparing import Draft
from parties.buyer.pricing import price
from parties.buyer.records import RECEIPT, JobFolder, JobFolders
from parties.buyer.results import JobResult, JobSummary, Progress, Quote, Withdrawal
from parties.buyer.specs import Schedule, Terms

if TYPE_CHECKING:
    from parties.buyer.book import Book
    from parties.buyer.closing import Closing

__all__ = ["Buyer"]


class Buyer(AbstractContextManager["Buyer"]):
    """A buyer with its home directory. Close it, or use it in a `with` statement.

    Args:
        home: made by `enclave init buyer NAME`.
        progress: called with (stage, steps done, steps in all, bytes) while a job runs.
        note: called with a line for the user, such as the outcome of a trial on the mock twins.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        progress: Progress | None = None,
        note: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._identity = Identity.load(Path(home).expanduser(), self._clock)
        if self._identity.role != "buyer":
            raise BadInput(
                f"{self._identity.name} is {_article(self._identity.role)}, expected a buyer",
                hint="choose the buyer's home with --home",
            )
        self._trust = TrustStore(self._identity.home, self._clock)
        self._network = Network(self._identity, self._trust)
        self._folders = JobFolders(self._identity.home)
        self._report: Progress = progress or _silent
        self._note = note

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections to all nodes."""
        self._network.__exit__()

    @property
    def name(self) -> str:
        """This buyer's name."""
        return self._identity.name

    # ---- looking around
    def datasets(self) -> Catalogue:
        """What the trusted owners offer this buyer, and which of them could not be asked."""
        return self._network.catalogue()

    def jobs(self) -> tuple[JobSummary, ...]:
        """All jobs of this buyer, oldest first."""
        with self._book() as book:
            return tuple(JobSummary.of(record) for record in book.jobs.list())

    def quote_evaluate(
        self,
        model: Any,
        *,
        data: Sequence[str],
        encoding: Encoding | Path | str,
        metrics: Sequence[str] = ("accuracy",),
        predictions: bool = False,
        dealer: str | None = None,
        rows: Sequence[int] | None = None,
        bandwidth_bps: float = 1e8,
        latency_s: float = 0.02,
        frac_bits: int | None = None,
        block_rows: int = 4096,
        network: str = "lan",
        engine: str = "mpc",
        beside: bool = False,
    ) -> Quote:
        """The price of `evaluate`. With `rows`, one count per data set, nobody is contacted.

        With `beside`, or engine "auto", the other engines' prices stand beside it.
        """
        terms = self._terms(frac_bits=frac_bits, block_rows=block_rows, network=network, engine=engine)
        make = evaluating(_encoding(encoding), model, metrics, predictions)
        return self._quoted(make, terms, data, dealer, rows, bandwidth_bps, latency_s, beside)

    def quote_train(
        self,
        schedule: Schedule,
        *,
        data: Sequence[str],
        encoding: Encoding | Path | str,
        metrics: Sequence[str] = (),
        dealer: str | None = None,
        rows: Sequence[int] | None = None,
        buyer_rows: int = 0,
        bandwidth_bps: float = 1e8,
        latency_s: float = 0.02,
        frac_bits: int | None = None,
        network: str = "lan",
        engine: str = "mpc",
        beside: bool = False,
    ) -> Quote:
        """The price of `train`; `rows` and `beside` as for `quote_evaluate`."""
        terms = self._terms(frac_bits=frac_bits, network=network, engine=engine)
        make = teaching(_encoding(encoding), schedule, metrics, buyer_rows)
        return self._quoted(make, terms, data, dealer, rows, bandwidth_bps, latency_s, beside)

    # ---- jobs
    def evaluate(
        self,
        model: Any,
        *,
        data: Sequence[str],
        encoding: Encoding | Path | str,
        metrics: Sequence[str] = ("accuracy",),
        predictions: bool = False,
        dealer: str | None = None,
        frac_bits: int | None = None,
        block_rows: int = 4096,
        purpose: str = "",
        lifetime_s: float = 86_400,
        wait_s: float = 0,
        mock: bool = False,
        deal_ahead: bool = False,
        network: str = "lan",
        prepare: bool = False,
        engine: str = "mpc",
    ) -> JobResult:
        """Scores a model on owners' rows. Only the metrics come back (and row predictions, where allowed).

        Args:
            model: path of an ONNX file, a torch.nn.Module, a scikit-learn linear model, or an `enclave` Model.
            data: OWNER/DATASET, one per owner; rows count together.
            encoding: path of a TOML file, or the value itself.
            frac_bits: of fixed point; None: 20, or fewer where the model and the declared ranges need the room.
            wait_s: how long to wait where an owner approves by hand.
            mock: first run the job here, in plaintext, on the data sets' mock twins.
            deal_ahead: have the dealer deal to the parties' disks before the session, so that it waits for nobody.
            network: "lan" or "wan" (slow: tens of ms a round trip): what protocols are chosen for.
            prepare: do no more than that: `result` starts the job, NotReady says so.
            engine: "mpc", "hybrid", "he", or "auto" for the best that the owners allow; see docs/engines.md.

        Raises: NotReady when a person must still approve (`result` goes on later), PolicyRefused, BadModel,
            BadData, RangeExceeded, SessionError.
        """
        _warm_up()
        terms = self._terms(frac_bits, block_rows, purpose, lifetime_s, deal_ahead or prepare, network, engine)
        draft = self._drafted(evaluating(_encoding(encoding), model, metrics, predictions), terms, data, dealer)
        return self._run_new(draft, wait_s, mock=mock, prepare=prepare)

    def predict(self, model: Any, *, data: Sequence[str], encoding: Encoding | Path | str, **options: Any) -> JobResult:
        """A prediction for every row, where the owners' policies allow it; options as for `evaluate`."""
        return self.evaluate(model, data=data, encoding=encoding, metrics=(), predictions=True, **options)

    def train(
        self,
        schedule: Schedule,
        *,
        data: Sequence[str],
        encoding: Encoding | Path | str,
        metrics: Sequence[str] = (),
        rows: Any = None,
        dealer: str | None = None,
        frac_bits: int | None = None,
        purpose: str = "",
        lifetime_s: float = 86_400,
        wait_s: float = 0,
        mock: bool = False,
        deal_ahead: bool = False,
        network: str = "lan",
        prepare: bool = False,
        engine: str = "mpc",
    ) -> JobResult:
        """Trains a model on the rows of all owners together, and of the buyer if `rows` is given.

        Args:
            schedule: kind of model and public hyperparameters.
            metrics: figures of the trained model on the rows it was trained on.
            rows: path of a Parquet or CSV file with rows of the buyer's own, in the owners' columns.

        Raises: as `evaluate`.
        """
        _warm_up()
        terms = self._terms(frac_bits, 4096, purpose, lifetime_s, deal_ahead or prepare, network, engine)
        given = _encoding(encoding)
        own = preparing.own_rows(rows, given)
        make = teaching(given, schedule, metrics, 0 if own is None else own.rows)
        draft = self._drafted(make, terms, data, dealer)
        draft = replace(draft, own=own, own_path=None if rows is None else str(rows))
        return self._run_new(draft, wait_s, mock=mock, prepare=prepare)

    def result(self, job_id: str, *, wait_s: float = 0) -> JobResult:
        """The result of a finished job; a job that waited for approval is run first, if it now has it.

        Args: job_id: the id, or enough of its first digits.
        Raises: NotReady when approval is still missing; what ended the job, when it failed.
        """
        from parties.buyer.finishing import retry_receipt

        folder = self._folders.get(job_id)
        with self._book() as book:
            # A folder that the book does not know was left by a command that died before it proposed the job.
            record = book.find(folder.job_id)
            if record is not None and record.state == "RELEASED":
                return retry_receipt(folder, self._closing(book))
            if record is not None and record.is_final:
                error = preparing.ended(record)
                self._close(folder, book, error)
                raise error
            if record is not None and record.state in ("RUNNING", "SEALED"):
                raise NotReady(
                    f"job {folder.job_id} is being run by another command", job_id=folder.job_id, hint="ask again later"
                )
            _warm_up()
            return self._run(preparing.reload(folder), folder, book, wait_s)

    def withdraw(self, job_id: str) -> Withdrawal:
        """Cancels a job of this buyer, waiting or running, here and at all of its nodes. Idempotent.

        A command that runs the job meanwhile ends with the news that it is withdrawn.

        Args: job_id: the id, or enough of its first digits.
        Raises: Refused: the job's result was released already.
        """
        from enclave.executor.dealing import shelf_of

        folder = self._folders.get(job_id)
        with self._book() as book:
            if book.find(folder.job_id) is None:
                # Left by a command that died before it proposed the job. It must not be proposed by the next.
                book.propose(folder.signed(), folder.spec())
            record = book.withdraw(folder.job_id, self.name)
            shelf_of(self._identity.home).discard(folder.job_id)
            self._report("collecting the receipt", 0, 0, 0)
            ended = self._closing(book).close(folder)
        states = {name: said.state for name, said in ended.statements.items()}
        return Withdrawal(folder.job_id, record.state, states, ended.receipt, ended.problems)

    # ---- how
    def _run_new(self, draft: Draft, wait_s: float, *, mock: bool, prepare: bool) -> JobResult:
        if mock:
            from parties.buyer.trial import outcome, rehearse

            tried = rehearse(draft)
            if self._note is not None:
                self._note(outcome(tried))
        draft = preparing.with_plan(draft, self._report)
        folder = self._folders.create(draft.spec.job_id)
        preparing.store(draft, folder, self._identity)
        with self._book() as book:
            return self._run(draft, folder, book, wait_s, prepare=prepare)

    def _run(self, draft: Draft, folder: JobFolder, book: Book, wait_s: float, *, prepare: bool = False) -> JobResult:
        from parties.buyer.finishing import conclude
        from parties.buyer.running import Run

        run = Run(
            folder=folder,
            identity=self._identity,
            trust=self._trust,
            network=self._network,
            book=book,
            clock=self._clock,
            report=self._report,
        )
        try:
            run.admit(wait_s)
            run.deal()
            if prepare:
                raise NotReady(
                    f"job {folder.job_id} was dealt ahead and waits for its start",
                    job_id=folder.job_id,
                    hint=f"`enclave buyer result {folder.job_id}` starts it",
                )
            finished = run.perform(draft.inputs())
        except EnclaveError as error:
            self._close(folder, book, error)
            raise
        self._report("collecting the receipt", 0, 0, 0)
        return conclude(run, draft, finished, identity=self._identity, closing=self._closing(book))

    def _closing(self, book: Book) -> Closing:
        from parties.buyer.closing import Closing

        return Closing(identity=self._identity, trust=self._trust, book=book, clock=self._clock)

    def _close(self, folder: JobFolder, book: Book, error: EnclaveError) -> None:
        """Makes the receipt of a job that ended with `error`, and notes on the error what came of that."""
        record = book.find(folder.job_id)
        if record is None or not record.is_final:
            return
        if not folder.has(RECEIPT):
            self._report("collecting the receipt", 0, 0, 0)
            error.add_note(self._closing(book).close(folder).line(folder.job_id))
        else:
            error.add_note(f"the receipt of this end, signed by all, is {folder.path / RECEIPT}")

    def _drafted(self, make: Make, terms: Terms, data: Sequence[str], dealer: str | None) -> Draft:
        parties = gather(self._network, data, dealer, None, self._identity.card, terms.engine)
        if terms.engine != "auto":
            return drafted(make, parties, terms)
        found = compare(make, parties, terms)
        if self._note is not None:
            self._note(f"engine    {found.why}")
        return found.draft

    def _quoted(
        self,
        make: Make,
        terms: Terms,
        data: Sequence[str],
        dealer: str | None,
        rows: Sequence[int] | None,
        bandwidth_bps: float,
        latency_s: float,
        beside: bool,
    ) -> Quote:
        parties = gather(self._network, data, dealer, rows, self._identity.card, terms.engine)
        if beside or terms.engine == "auto":
            return compare(make, parties, terms, bandwidth_bps=bandwidth_bps, latency_s=latency_s).to_quote()
        return price(drafted(make, parties, terms), bandwidth_bps=bandwidth_bps, latency_s=latency_s)

    def _terms(
        self,
        frac_bits: int | None = None,
        block_rows: int = 4096,
        purpose: str = "",
        lifetime_s: float = 86_400,
        deal_ahead: bool = False,
        network: str = "lan",
        engine: str = "mpc",
    ) -> Terms:
        if not math.isfinite(lifetime_s) or lifetime_s < 1:
            raise BadInput(f"a job must live at least 1 s, found {lifetime_s}")
        if engine not in ASKED:
            raise BadInput(f"engine must be one of {', '.join(ASKED)}, found {str(engine)[:40]!r}")
        return Terms(self._clock.unix_s(), int(lifetime_s), frac_bits, block_rows, purpose, deal_ahead, network, engine)

    def _book(self) -> Book:
        # Not at the top: the store brings SQLAlchemy with it, which a quote or a listing of data sets does not need.
        from parties.buyer.book import Book

        return Book(self._identity.home, self._identity, self._clock)


def _encoding(given: Encoding | Path | str) -> Encoding:
    return given if isinstance(given, Encoding) else read_encoding(Path(given))


def _silent(stage: str, done: int, total: int, size_bytes: int) -> None:
    del stage, done, total, size_bytes


def _article(role: str) -> str:
    return f"an {role}" if role[0] in "ao" else f"a {role}"


def _warm_up() -> None:
    """Imports the engine in the background: that takes longer than describing and proposing together."""
    threading.Thread(target=_import_engine, name="imports", daemon=True).start()


def _import_engine() -> None:
    for name in ("enclave.executor.session", "enclave.plan", "enclave.workloads", "parties.buyer.finishing"):
        importlib.import_module(name)
