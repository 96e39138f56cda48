"""One owner's node and one dealer's, in this process: what they admit, refuse, queue, and state."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from enclave.errors import BadData, BadInput, EnclaveError, NotReady, Refused, StoreError, Untrusted
from enclave.executor.orders import NodeOrder
from enclave.executor.session import Sealing, plan_job
from enclave.identity import Identity, TrustStore, verify
from enclave.messages import (
    Approval,
    Encoding,
    Feature,
    JobSpec,
    JobStatus,
    NumericFeature,
    Signed,
    Statement,
    Transcript,
)
from parties import dealer, owner
from parties.cli import main
from parties.node import NodeProcess, open_node
from parties.server import NodeClient
from tests.parties.fleet import Fleet, table


class Nodes:
    """A fleet whose nodes run in this process."""

    def __init__(self, fleet: Fleet, **arguments: float) -> None:
        self.fleet = fleet
        self.nodes = {name: open_node(fleet.root / name, **arguments) for name in fleet.node_names}  # type: ignore[arg-type]

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    found = Nodes(Fleet(tmp_path_factory.mktemp("nodes"), settings="shutdown_s = 0\nmax_rows = 1000\n"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Fleet:
    return nodes.fleet


def _propose(fleet: Fleet, spec: JobSpec, name: str = "owner0") -> tuple[str, tuple[str, ...]]:
    with fleet.client(name) as client:
        decision = client.propose(fleet.sign(spec))
    return decision.state, tuple(reason.rule for reason in decision.reasons)


# ---- who sees what


def test_an_owner_shows_its_data_to_those_its_policy_names(fleet: Fleet) -> None:
    with fleet.client("owner0") as client:
        reply = client.describe()
    assert (reply.name, reply.role, reply.profile) == ("owner0", "owner", "development")
    (info,) = reply.datasets
    assert (info.ref.name, info.ref.rows, info.minimum_rows) == ("points", 60, 20)
    assert info.outputs == ("accuracy", "auc", "confusion")
    assert [column.name for column in info.columns] == ["a", "b", "c", "y"]
    assert info.mock_parquet.startswith(b"PAR1")
    assert any(line.startswith("node.profile=") for line in reply.claims)
    with fleet.client("owner0", "dealer") as client:
        assert client.describe().datasets == ()
    with fleet.client("dealer") as client:
        assert client.describe().datasets == ()


# ---- admission


def test_a_good_job_is_admitted_by_both(fleet: Fleet) -> None:
    spec = fleet.spec()
    assert _propose(fleet, spec) == ("ADMITTED", ())
    assert _propose(fleet, spec, "dealer") == ("ADMITTED", ())
    # The same bytes again are the same job.
    assert _propose(fleet, spec) == ("ADMITTED", ())


def _without_column(spec: JobSpec) -> JobSpec:
    features = (*spec.encoding.features[:2], Feature("zzz", NumericFeature(low=-2, high=2)))
    return replace(spec, encoding=Encoding(features, spec.encoding.target))


def _narrow(spec: JobSpec) -> JobSpec:
    features = (*spec.encoding.features[:2], Feature("c", NumericFeature(low=-1, high=1)))
    return replace(spec, encoding=Encoding(features, spec.encoding.target))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda s: replace(s, datasets=(replace(s.datasets[0], name="other"),)), "policy.dataset"),
        (lambda s: replace(s, datasets=(replace(s.datasets[0], version=b"x" * 32),)), "policy.dataset"),
        (lambda s: replace(s, datasets=(replace(s.datasets[0], rows=59),)), "policy.rows.declared"),
        (lambda s: replace(s, outputs=("accuracy", "predictions")), "policy.output"),
        (_without_column, "policy.column"),
        (_narrow, "encoding.column"),
        (lambda s: replace(s, outputs=("rmse",)), "policy.output"),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused_with_its_id(
    fleet: Fleet, change: Callable[[JobSpec], JobSpec], rule: str
) -> None:
    spec = change(fleet.spec())
    try:
        spec = replace(spec, plan_digest=plan_job(spec).digest)
    except EnclaveError:
        pass
    state, rules = _propose(fleet, spec)
    assert state == "REFUSED"
    assert rule in rules
    # A refusal is final, and is on record: ledger entry and signed statement.
    with fleet.client("owner0") as client:
        statement = Statement.decode(
            verify(Signed.decode(client.fetch(spec.job_id)["statement"]), "statement", fleet.ids["owner0"].card)
        )
    assert (statement.state, statement.job_id) == ("REFUSED", spec.job_id)
    assert rule in {reason.rule for reason in statement.reasons}
    assert statement.transcript is None


def test_a_stranger_cannot_tell_which_data_sets_exist(fleet: Fleet) -> None:
    toml = fleet.root / "owner0" / "datasets" / "points" / "dataset.toml"
    spec, before = fleet.spec(), toml.read_text()
    other = replace(fleet.spec(), datasets=(replace(spec.datasets[0], name="other"),))
    toml.write_text(before.replace('buyers = ["buyer"]', 'buyers = ["somebody"]'))
    try:
        assert toml.read_text() != before
        with fleet.client("owner0") as client:
            found = [client.propose(fleet.sign(job)).reasons for job in (spec, other)]
    finally:
        toml.write_text(before)
    assert found[0] == found[1]
    assert [reason.rule for reason in found[0]] == ["policy.dataset"]


def test_a_column_that_may_not_be_used_is_not_described(fleet: Fleet) -> None:
    """Neither its range nor whether it exists."""
    toml = fleet.root / "owner0" / "datasets" / "points" / "dataset.toml"
    before = toml.read_text()
    toml.write_text(before.replace("[policy]", '[policy]\ncolumns = ["a", "b", "y"]'))
    try:
        assert _propose(fleet, _narrow(fleet.spec())) == ("REFUSED", ("policy.column",))
        assert _propose(fleet, _without_column(fleet.spec())) == ("REFUSED", ("policy.column",))
    finally:
        toml.write_text(before)


def test_another_plan_is_refused_with_both_digests(fleet: Fleet) -> None:
    spec = fleet.spec(plan_digest=b"\xab" * 32)
    for name in fleet.node_names:
        with fleet.client(name) as client:
            decision = client.propose(fleet.sign(spec))
        assert decision.state == "REFUSED"
        (reason,) = decision.reasons
        assert reason.rule == "plan.mismatch"
        assert "abababab" in reason.text


def test_a_job_of_too_many_rows_is_refused_by_the_dealer(fleet: Fleet) -> None:
    spec = fleet.spec()
    spec = replace(spec, datasets=(replace(spec.datasets[0], rows=1001),))
    assert _propose(fleet, spec, "dealer") == ("REFUSED", ("node.rows",))


def test_what_cannot_be_recorded_raises(fleet: Fleet) -> None:
    now = int(time.time())
    with fleet.client("owner0") as client:
        with pytest.raises(Refused, match="expired") as caught:
            client.propose(fleet.sign(fleet.spec(created_unix_s=now - 20, expires_unix_s=now - 10)))
        assert caught.value.code == "job.expired"
        with pytest.raises(Refused, match="future"):
            client.propose(fleet.sign(fleet.spec(created_unix_s=now + 1000, expires_unix_s=now + 2000)))
        spec = fleet.spec()
        client.propose(fleet.sign(spec))
        with pytest.raises(Refused) as caught:
            client.propose(fleet.sign(replace(spec, purpose="another")))
        assert caught.value.code == "job.conflict"
        with pytest.raises(EnclaveError, match="malformed"):
            client.propose(fleet.ids["buyer"].sign("job", b"\xff\xff"))
        with pytest.raises(Untrusted, match="does not hold"):
            client.propose(replace(fleet.sign(fleet.spec()), body=fleet.spec().encode()))


def test_only_the_buyer_itself_can_propose_its_job(fleet: Fleet) -> None:
    signed = fleet.sign(fleet.spec())
    with fleet.client("owner0", "dealer") as client, pytest.raises(Untrusted, match="proposed by dealer"):
        client.propose(signed)
    with fleet.client("owner0", "dealer") as client, pytest.raises(Untrusted, match="cannot sign jobs"):
        client.propose(fleet.ids["dealer"].sign("job", signed.body))


def test_to_those_without_a_part_a_job_does_not_exist(fleet: Fleet) -> None:
    spec = fleet.spec()
    _propose(fleet, spec)
    other = Identity.create(fleet.root / "buyer2", "buyer", "buyer2")
    TrustStore(fleet.root / "owner0").add(other.card.encoded)
    calls: list[Callable[[NodeClient], object]] = [
        lambda c: list(c.status(spec.job_id)),
        lambda c: c.start(spec.job_id),
        lambda c: c.locate(spec.job_id, within_s=0),
        lambda c: c.fetch(spec.job_id),
        lambda c: c.withdraw(spec.job_id),
    ]
    with NodeClient(other, fleet.ids["owner0"].card) as client:
        for call in calls:
            with pytest.raises(Refused) as stranger:
                call(client)
            with pytest.raises(Refused) as nothing:
                client.start("00" * 16)
            assert stranger.value.code == nothing.value.code == "job.unknown"
    with fleet.client("owner0", "dealer") as client:
        # A party of the job may follow it, but not start or withdraw it.
        assert client.status_now(spec.job_id).state == "ADMITTED"
        for call in (calls[1], calls[4]):
            with pytest.raises(Refused, match="no job"):
                call(client)
        with pytest.raises(NotReady):
            client.fetch(spec.job_id)


def test_a_withdrawn_job_is_final_and_stays_so(fleet: Fleet) -> None:
    spec = fleet.spec()
    _propose(fleet, spec)
    with fleet.client("owner0") as client:
        assert client.withdraw(spec.job_id).state == "WITHDRAWN"
        assert client.withdraw(spec.job_id).state == "WITHDRAWN"
        assert client.start(spec.job_id).state == "WITHDRAWN"
        assert "statement" in client.fetch(spec.job_id)
    (job,) = [j for j in owner.jobs(fleet.root / "owner0") if j.job_id == spec.job_id]
    assert (job.state, job.reasons[0].rule) == ("WITHDRAWN", "job.withdrawn")


def test_an_auditor_may_fetch_and_nothing_else(fleet: Fleet) -> None:
    spec = fleet.spec(outputs=("predictions",))
    _propose(fleet, spec)
    auditor = Identity.create(fleet.root / "auditor", "auditor", "auditor")
    TrustStore(fleet.root / "owner0").add(auditor.card.encoded)
    with NodeClient(auditor, fleet.ids["owner0"].card) as client:
        assert "statement" in client.fetch(spec.job_id)
        with pytest.raises(Refused):
            client.start(spec.job_id)


# ---- the operator's consent


@pytest.fixture
def manual(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(Fleet(tmp_path, approval="manual", settings="shutdown_s = 0\n"))
    yield found
    found.close()


def test_a_job_waits_for_the_operator_and_for_nobody_else(manual: Nodes) -> None:
    fleet = manual.fleet
    spec = fleet.spec()
    assert _propose(fleet, spec) == ("PROPOSED", ("policy.approval",))
    approval = Approval(spec.job_id, b"d" * 32).encode()
    with fleet.client("owner0") as client:
        assert client.start(spec.job_id).state == "PROPOSED"
        with pytest.raises(Untrusted, match="only the operator"):
            client.approve(fleet.ids["buyer"].sign("approval", approval))
    with fleet.client("owner0", "owner0") as client, pytest.raises(Refused, match="another specification"):
        client.approve(fleet.ids["owner0"].sign("approval", approval))
    assert owner.approve(fleet.root / "owner0", spec.job_id).job_id == spec.job_id
    # The node hears of what was written into its store, without being asked.
    with fleet.client("owner0") as client:
        states = [status.state for status in _until(client, spec.job_id, "ADMITTED")]
    assert states[-1] == "ADMITTED"
    with pytest.raises(Refused, match="no job"):
        owner.approve(fleet.root / "owner0", "00" * 16)


def test_what_waits_stands_first_with_what_a_person_needs_to_know(
    manual: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = manual.fleet
    spec = fleet.spec(purpose="a study\x1b[2J")
    assert _propose(fleet, spec)[0] == "PROPOSED"
    for _ in range(2):
        assert _propose(fleet, _without_column(fleet.spec()))[0] == "REFUSED"
    first = owner.jobs(fleet.root / "owner0", limit=1)
    assert [job.state for job in first].index("REFUSED") == len(first) - 1
    (job,) = [job for job in first if job.job_id == spec.job_id]
    facts = "\n".join(job.facts)
    for word in (
        "columns used: a, b, c",
        "target column: y",
        "dealer (dealer)",
        "outputs asked for: accuracy",
        "a study",
    ):
        assert word in facts, word
    assert main(["--home", str(fleet.root / "owner0"), "owner", "approve", spec.job_id]) == 0
    said = capsys.readouterr().err
    assert "columns used: a, b, c" in said and "\x1b" not in said


def test_consent_over_the_wire_counts_too(manual: Nodes) -> None:
    fleet = manual.fleet
    spec = fleet.spec()
    _propose(fleet, spec)
    (job,) = owner.jobs(fleet.root / "owner0")
    signed = fleet.ids["owner0"].sign("approval", Approval(spec.job_id, job.spec_digest).encode())
    with fleet.client("owner0", "owner0") as client:
        assert client.approve(signed).state == "ADMITTED"


def _until(client: NodeClient, job_id: str, state: str, within_s: float = 10.0) -> list[JobStatus]:
    """The statuses up to `state`; fails when it does not come in time."""
    seen, end_s = [], time.monotonic() + within_s
    for status in client.status(job_id):
        seen.append(status)
        if status.state == state:
            return seen
        assert time.monotonic() < end_s, seen
    return seen


# ---- workers


def test_a_job_whose_buyer_is_silent_gives_its_worker_back(tmp_path: Path) -> None:
    nodes = Nodes(Fleet(tmp_path, settings="shutdown_s = 0\nmax_jobs = 1\n"), silence_s=4)
    try:
        fleet = nodes.fleet
        first, second = fleet.spec(), fleet.spec()
        for spec in (first, second):
            assert _propose(fleet, spec)[0] == "ADMITTED"
        with fleet.client("owner0", deadline_s=2.5) as client:
            assert client.start(first.job_id).state == "RUNNING"
            waiting = client.start(second.job_id)
            assert waiting.state == "ADMITTED"
            assert "waiting for a worker" in waiting.stage
            # Nobody asks for the first any more: it fails, and the second has its place.
            end_s = time.monotonic() + 30
            while client.start(second.job_id).state == "ADMITTED" and time.monotonic() < end_s:
                pass
            final = list(client.status(first.job_id))[-1]
            assert final.state == "FAILED"
            assert final.reasons[0].rule == "session.buyer_silent"
            assert "buyer" in final.reasons[0].text
            assert client.status_now(second.job_id).state == "RUNNING"
    finally:
        nodes.close()


def test_a_session_that_never_begins_ends_with_its_job(tmp_path: Path) -> None:
    """However often its buyer asks for it."""
    nodes = Nodes(Fleet(tmp_path, settings="shutdown_s = 0\n"))
    try:
        fleet, now = nodes.fleet, int(time.time())
        spec = fleet.spec(expires_unix_s=now + 4)
        _propose(fleet, spec)
        with fleet.client("owner0") as client:
            while (status := client.start(spec.job_id)).state == "RUNNING":
                assert time.time() < now + 20
                time.sleep(0.2)
        assert (status.state, status.reasons[0].rule) == ("FAILED", "job.expired")
    finally:
        nodes.close()


def test_a_worker_is_not_kept_long_after_the_end_was_decided(tmp_path: Path) -> None:
    """A peer that never takes its leave cannot hold the place, and who asks for documents is not kept waiting."""
    fleet = Fleet(tmp_path, settings="shutdown_s = 0\n")
    config = fleet.root / "owner0" / "node.toml"
    config.write_text(config.read_text().replace("step_deadline_s = 20", "step_deadline_s = 1"))
    nodes = Nodes(fleet)
    try:
        spec = nodes.fleet.spec()
        _propose(nodes.fleet, spec)
        with nodes.fleet.client("owner0") as client:
            assert client.start(spec.job_id).state == "RUNNING"
            leases = nodes.nodes["owner0"].node._leases
            runner = leases.runner(spec.job_id)
            assert runner is not None and not runner.overdue
            runner._desk.jobs.advance(spec.job_id, "SEALED", worker_id=runner.worker_id)
            # The gate once more: without a permit, and with a result that the policy would not let go by now.
            sent: list[NodeOrder] = []
            worker = SimpleNamespace(send=sent.append)
            runner._commit(worker)  # type: ignore[arg-type]
            assert client.status_now(spec.job_id).state == "SEALED"
            runner._sealing = Sealing(spec.job_id, spec.outputs, spec.rows, Transcript(0, (), b"", False))
            runner._commit(worker)  # type: ignore[arg-type]
            assert [order.release for order in sent] == [None, None]
            begun = time.monotonic()
            with pytest.raises(NotReady):
                client.fetch(spec.job_id)
            assert time.monotonic() - begun < 4
            assert runner.join(10.0)
            assert client.status_now(spec.job_id).state == "REFUSED"
    finally:
        nodes.close()


def test_closing_fails_what_runs_and_says_why(tmp_path: Path) -> None:
    nodes = Nodes(Fleet(tmp_path, settings="shutdown_s = 0\n"))
    fleet = nodes.fleet
    spec = fleet.spec()
    _propose(fleet, spec)
    with fleet.client("owner0") as client:
        assert client.start(spec.job_id).state == "RUNNING"
    nodes.close()
    (job,) = owner.jobs(fleet.root / "owner0")
    assert (job.state, job.reasons[0].rule) == ("FAILED", "session.shutdown")


# ---- homes and roles


def test_a_home_serves_its_own_role_once(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="already serves"):
        owner.serve(fleet.root / "owner0")
    with pytest.raises(Untrusted, match="expected dealer"):
        dealer.serve(fleet.root / "owner0")
    with pytest.raises(Untrusted, match="buyer"):
        open_node(fleet.root / "buyer")
    with pytest.raises(StoreError, match="not a home"):
        owner.serve(tmp_path / "nothing")


def test_a_port_in_use_leaves_the_store_free(fleet: Fleet, tmp_path: Path) -> None:
    home = tmp_path / "second"
    Identity.create(home, "owner", "second", "127.0.0.1:1")
    address = fleet.ids["owner0"].card.address
    (home / "node.toml").write_text(f'listen = "{address}"\nprofile = "development"\n')
    with pytest.raises(BadInput, match="in use"):
        owner.serve(home)
    (home / "node.toml").write_text('listen = "127.0.0.1:0"\nprofile = "development"\nshutdown_s = 0\n')
    process: NodeProcess = owner.serve(home)
    process.close()


def test_a_full_disk_is_said_and_harms_no_running_node(tmp_path: Path) -> None:
    nodes = Nodes(Fleet(tmp_path, settings="shutdown_s = 0\nmax_store_bytes = 200000\nmax_open_jobs_per_buyer = 500\n"))
    try:
        fleet = nodes.fleet
        spec = fleet.spec()
        _propose(fleet, spec)
        with fleet.client("owner0") as client:
            with pytest.raises(StoreError) as caught:
                for _ in range(300):
                    client.propose(fleet.sign(replace(spec, job_id=secrets.token_hex(16))))
            assert str(tmp_path) not in caught.value.public + caught.value.hint
            assert client.describe().name == "owner0"
            assert client.status_now(spec.job_id).state == "ADMITTED"
    finally:
        nodes.close()


def test_a_production_node_does_not_start_where_a_claim_would_be_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Identity.create(tmp_path / "home", "owner", "acme", "127.0.0.1:1")
    (tmp_path / "home" / "node.toml").write_text('listen = "127.0.0.1:0"\nshutdown_s = 0\n')
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with pytest.raises(Refused, match="SSLKEYLOGFILE"):
        owner.serve(tmp_path / "home")
    monkeypatch.delenv("SSLKEYLOGFILE")
    owner.serve(tmp_path / "home").close()


def test_data_sets_are_registered_once_and_replaced_on_purpose(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    home = tmp_path / "owner0"
    (before,) = owner.datasets(home)
    assert (before.rows, before.policy.minimum_rows) == (60, 20)
    assert (before.folder / "salt").stat().st_mode & 0o777 == 0o600
    x, y = table(80)
    with pytest.raises(BadInput, match="registered already"):
        fleet.add_data("owner0", x, y)
    fleet.add_data("owner0", x, y, replace_it=True)
    (after,) = owner.datasets(home)
    assert (after.rows, after.name) == (80, before.name)
    assert after.version != before.version
    # Another salt, another version: equal rows at two times cannot be told from a version.
    fleet.add_data("owner0", x, y, replace_it=True)
    assert owner.datasets(home)[0].version != after.version
    owner.remove(home, "points")
    assert owner.datasets(home) == ()
    assert (tmp_path / "owner0-data" / "points.csv").exists()


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("points.csv", "a,b,c,y\n1,2,three,no\n", BadData),
        ("points.csv", "a,b,c,y\n1,2,3000,no\n", BadData),
        ("points.csv", "a,b,c,y\n", BadData),
        ("points.toml", "[dataset]\nname = 'points'\n", BadInput),
        ("points.toml", "[dataset]\nname = 'points'\npath = 'points.csv'\n[policy]\nkind = ['train']\n", BadInput),
        ("points.toml", "not toml", BadInput),
    ],
)
def test_bad_data_is_not_registered(tmp_path: Path, name: str, text: str, kind: type[Exception]) -> None:
    fleet = Fleet(tmp_path)
    folder = tmp_path / "owner0-data"
    (folder / name).write_text(text)
    (before,) = owner.datasets(fleet.root / "owner0")
    with pytest.raises(kind):
        owner.add(fleet.root / "owner0", folder / "points.toml", replace=True)
    assert owner.datasets(fleet.root / "owner0") == (before,)
