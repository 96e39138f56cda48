"""Policy conformance: each field blocks what it does not name, with a stable rule id; nothing is allowed by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enclave.errors import BadInput, BadSpec
from enclave.messages import (
    OUTPUTS,
    Architecture,
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
    Target,
    Training,
)
from enclave.policy import APPROVAL_RULE, RULES, Facts, Policy, awaits_approval

NOW = 1_700_000_000  # 2023-11-14
OPEN = {
    "buyers": ["acme"],
    "kinds": ["evaluate"],
    "outputs": ["accuracy", "auc"],
    "engines": ["mpc"],
    "minimum_rows": 50,
    "approval": "automatic",
}
PARTIES = (
    PartyRef("clinic", "owner", b"o" * 32, "127.0.0.1:1"),
    PartyRef("hospital", "owner", b"h" * 32, "127.0.0.1:2"),
    PartyRef("acme", "buyer", b"b" * 32),
    PartyRef("dealer", "dealer", b"d" * 32, "127.0.0.1:3"),
)
SPEC = JobSpec(
    job_id="0" * 32,
    kind="evaluate",
    created_unix_s=NOW,
    expires_unix_s=NOW + 3600,
    parties=PARTIES,
    datasets=(DatasetRef("clinic", "hearts", b"v" * 32, 80), DatasetRef("hospital", "beats", b"w" * 32, 900)),
    encoding=Encoding(
        (Feature("age", NumericFeature()), Feature("weight", NumericFeature())),
        Target("sick", classes=ClassTarget((Category(("no",)), Category(("yes",))))),
    ),
    architecture=Architecture((2,), (), ()),
    outputs=("accuracy",),
    purpose="research",
)
FACTS = Facts(
    caller="acme",
    caller_role="buyer",
    caller_key_id=b"b" * 32,
    owner="clinic",
    dataset="hearts",
    version=b"v" * 32,
    rows=80,
    columns=("age", "weight", "sick", "name"),
    trusted=frozenset((p.name, p.role, p.key_id) for p in PARTIES),
    unix_s=NOW,
)


def policy(**changes: object) -> Policy:
    return Policy.parse(OPEN | changes)


def rules(policy: Policy, spec: JobSpec = SPEC, facts: Facts = FACTS) -> list[str]:
    return [reason.rule for reason in policy.admit(spec, facts)]


def spec(**changes: Any) -> JobSpec:
    return replace(SPEC, **changes)


def test_engines_are_allowed_by_name() -> None:
    encrypted = spec(engine="he", parties=PARTIES[:-1])
    assert rules(policy(), encrypted) == ["policy.engine"]
    assert rules(policy(engines=["mpc", "he"]), encrypted) == []
    assert rules(policy(engines=["mpc", "he"]), spec(engine="hybrid")) == ["policy.engine"]


def test_the_list_of_dealers_is_for_jobs_that_have_one() -> None:
    narrow = policy(engines=["he"], dealers=["another"])
    assert rules(narrow, spec(engine="he", parties=PARTIES[:-1])) == []
    assert rules(narrow, spec(engine="he")) == ["policy.dealer"]


def facts(**changes: Any) -> Facts:
    return replace(FACTS, **changes)


def training() -> JobSpec:
    return spec(kind="train", training=Training("logistic", 1, 10, 0.1), outputs=("accuracy",))


def with_party(rank: int, **changes: Any) -> JobSpec:
    parties = list(PARTIES)
    parties[rank] = replace(parties[rank], **changes)
    return spec(parties=tuple(parties))


def test_what_is_listed_is_admitted() -> None:
    assert policy().admit(SPEC, FACTS) == ()
    assert policy().release(SPEC, ("accuracy",), FACTS) == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"buyers": ["other"]}, "policy.buyer"),
        ({"buyers": []}, "policy.buyer"),
        ({"buyers": ["*"]}, "policy.buyer"),  # production
        ({"kinds": ["train"]}, "policy.kind"),
        ({"kinds": []}, "policy.kind"),
        ({"outputs": ["auc"]}, "policy.output"),
        ({"outputs": []}, "policy.output"),
        ({"engines": []}, "policy.engine"),
        ({"minimum_rows": 81}, "policy.rows.minimum"),
        ({"approval": "manual"}, "policy.approval"),
        ({"columns": ["age", "sick"]}, "policy.column"),
        ({"columns": ["age", "weight"]}, "policy.column"),  # the target counts as well
        ({"dealers": ["another"]}, "policy.dealer"),
        ({"dealers": []}, "policy.dealer"),
        ({"purposes": ["advertising"]}, "policy.purpose"),
        ({"purposes": []}, "policy.purpose"),
        ({"maximum_jobs_per_buyer": 0}, "policy.jobs.maximum"),
    ],
)
def test_each_field_blocks(changes: dict[str, object], rule: str) -> None:
    assert rules(policy(**changes)) == [rule]


@pytest.mark.parametrize("key", sorted(OPEN))
def test_a_field_left_out_allows_nothing(key: str) -> None:
    table = {k: v for k, v in OPEN.items() if k != key}
    expected = {
        "buyers": ["policy.buyer"],
        "kinds": ["policy.kind"],
        "outputs": ["policy.output"],
        "engines": ["policy.engine"],
        "minimum_rows": ["policy.rows.minimum"],  # the default of 100 holds
        "approval": ["policy.approval"],
    }
    assert rules(Policy.parse(table)) == expected[key]


def test_an_empty_policy_and_no_policy_refuse_everything() -> None:
    for closed in (Policy(), Policy.parse({}), Policy.parse(""), Policy.parse("[dataset]\nname = 'x'")):
        assert set(rules(closed)) >= {"policy.buyer", "policy.kind", "policy.engine", "policy.output"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"caller_role": "owner"}, "policy.caller"),
        ({"caller": "acme2"}, "policy.caller"),
        ({"caller_key_id": b"x" * 32}, "policy.caller"),
        ({"owner": "surgery"}, "policy.dataset"),
        ({"dataset": "beats"}, "policy.dataset"),
        ({"version": b"u" * 32}, "policy.dataset"),
        ({"rows": 79}, "policy.rows.declared"),
        ({"columns": ("age", "sick")}, "policy.column"),
        ({"trusted": frozenset()}, "policy.party"),
    ],
)
def test_each_fact_blocks(changes: dict[str, object], rule: str) -> None:
    assert rule in rules(policy(), SPEC, facts(**changes))


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("changes", [{"name": "mallory"}, {"key_id": b"m" * 32}])
def test_a_party_that_is_not_on_a_trusted_card(rank: int, changes: dict[str, object]) -> None:
    """Attack: the buyer names the dealer that the owner knows, with a key of its own, and would deal for itself."""
    try:
        changed = with_party(rank, **changes)
    except BadSpec:
        assert rank < 2 and "name" in changes  # an owner without a data set is no specification at all
        return
    assert "policy.party" in rules(policy(), changed)


def test_a_trusted_buyer_cannot_serve_as_dealer() -> None:
    trusted = FACTS.trusted | {("mallory", "buyer", b"m" * 32)}
    changed = with_party(3, name="mallory", key_id=b"m" * 32)
    assert rules(policy(), changed, facts(trusted=trusted)) == ["policy.party"]


def test_any_buyer_only_in_development() -> None:
    anyone = policy(buyers=["*"])
    assert rules(anyone, facts=facts(production=False)) == []
    assert rules(anyone) == ["policy.buyer"]
    assert anyone.allows_buyer("acme", production=False) and not anyone.allows_buyer("acme", production=True)
    assert policy().allows_buyer("acme", production=True) and not policy().allows_buyer("b", production=False)


def test_training_needs_its_own_word() -> None:
    assert rules(policy(), training()) == ["policy.kind"]
    assert rules(policy(kinds=["train"]), training()) == []


def test_predictions_and_model_need_their_own_words() -> None:
    """Attack: a linear model's predictions on chosen weights are the rows themselves. Metrics never imply them."""
    metrics = [o for o in OUTPUTS if o not in ("predictions", "model")]
    for output in ("predictions", "model"):
        asked = replace(training(), outputs=("accuracy", output))
        assert rules(policy(kinds=["train"], outputs=metrics), asked) == ["policy.output"]
        assert rules(policy(kinds=["train"], outputs=[*metrics, output]), asked) == []
    with pytest.raises(BadInput, match="outputs"):
        policy(outputs=["*"])


def test_each_owner_counts_its_own_rows() -> None:
    """980 rows in all, but 80 here: the others' rows do not hide this owner's few patients."""
    assert SPEC.rows > 100
    assert rules(policy(minimum_rows=100)) == ["policy.rows.minimum"]
    padded = spec(buyer_rows=10_000)
    assert rules(policy(minimum_rows=100), padded) == ["policy.rows.minimum"]


def test_a_job_limit_counts_other_jobs() -> None:
    limited = policy(maximum_jobs_per_buyer=3)
    assert rules(limited, facts=facts(granted_jobs=2)) == []
    assert rules(limited, facts=facts(granted_jobs=3)) == ["policy.jobs.maximum"]


@pytest.mark.parametrize(
    ("text", "last_ok_unix_s"),
    [
        ("2023-11-14", 1_700_006_399),  # the day itself still counts
        ("2023-11-14T22:13:20Z", 1_699_999_999),
        ("2023-11-14T23:13:20+01:00", 1_699_999_999),
    ],
)
def test_not_after(text: str, last_ok_unix_s: int) -> None:
    table = "\n".join(f"{k} = {v!r}" for k, v in OPEN.items())
    ending = Policy.parse(f"[policy]\n{table}\nnot_after = {text}\n")
    assert rules(ending, facts=facts(unix_s=last_ok_unix_s)) == []
    assert rules(ending, facts=facts(unix_s=last_ok_unix_s + 1)) == ["policy.expired"]


def test_the_last_day_of_all() -> None:
    assert (
        rules(
            Policy.parse(f"[policy]\n{chr(10).join(f'{k} = {v!r}' for k, v in OPEN.items())}\nnot_after = 9999-12-31")
        )
        == []
    )


def test_approval_is_a_fact_and_nothing_else_is_forgiven_by_it() -> None:
    manual = policy(approval="manual")
    waiting = manual.admit(SPEC, FACTS)
    assert awaits_approval(waiting)
    assert rules(manual, facts=facts(approved=True)) == []
    both = manual.admit(spec(outputs=("rmse",)), FACTS)
    assert {r.rule for r in both} == {APPROVAL_RULE, "policy.output"} and not awaits_approval(both)
    assert rules(manual, spec(outputs=("rmse",)), facts(approved=True)) == ["policy.output"]
    assert not awaits_approval(())


def test_all_broken_rules_are_reported() -> None:
    bad = replace(training(), outputs=("accuracy", "model", "predictions"), purpose="x")
    strict = policy(dealers=[], purposes=["y"], columns=["age"], minimum_rows=1000, maximum_jobs_per_buyer=1)
    found = rules(strict, bad, facts(caller="eve", granted_jobs=1, version=b"z" * 32))
    assert set(found) == {
        "policy.caller",
        "policy.buyer",
        "policy.kind",
        "policy.output",
        "policy.dataset",
        "policy.column",
        "policy.rows.minimum",
        "policy.dealer",
        "policy.purpose",
        "policy.jobs.maximum",
    }
    assert found.count("policy.output") == 2


def test_many_wrong_columns_are_one_short_reason() -> None:
    wide = spec(encoding=Encoding(tuple(Feature(f"c{n}", NumericFeature()) for n in range(5000))))
    (reason,) = policy().admit(wide, FACTS)
    assert reason.rule == "policy.column" and reason.text.endswith("and 4990 more") and len(reason.text) < 300


def test_release_asks_everything_again() -> None:
    """The owner tightened the policy, or rows went missing, while the job ran: nothing leaves."""
    assert [r.rule for r in policy().release(SPEC, ("auc",), FACTS)] == ["policy.output"]  # allowed, not declared
    assert [r.rule for r in policy(outputs=["auc"]).release(SPEC, ("accuracy",), FACTS)] == ["policy.output"]
    assert "policy.rows.minimum" in {r.rule for r in policy().release(SPEC, ("accuracy",), facts(rows=49))}
    assert [r.rule for r in policy(buyers=[]).release(SPEC, ("accuracy",), FACTS)] == ["policy.buyer"]
    assert Policy().release(SPEC, (), FACTS) != ()


def test_only_documented_rules_are_used() -> None:
    worst = replace(training(), outputs=OUTPUTS, engine="mpc", purpose="x")
    nobody = Policy(dealers=(), purposes=(), maximum_jobs_per_buyer=0, not_after_unix_s=0, columns=())
    wrong = facts(caller="eve", caller_role="owner", rows=1, version=b"z" * 32, trusted=frozenset())
    assert set(rules(nobody, worst, wrong)) == set(RULES)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"buyer": ["acme"]}, "unknown key 'buyer'"),
        ({"buyers": "acme"}, "buyers in .policy. must be a list of names"),
        ({"buyers": [1]}, "list of names"),
        ({"buyers": [""]}, "list of names"),
        ({"buyers": ["a", "a"]}, "without repetition"),
        ({"kinds": ["evaluate", "steal"]}, "kinds"),
        ({"outputs": ["acuracy"]}, "found 'acuracy'"),
        ({"engines": ["plain"]}, "engines"),
        ({"minimum_rows": 0}, "at least 1"),
        ({"minimum_rows": True}, "whole number"),
        ({"minimum_rows": 1.5}, "whole number"),
        ({"minimum_rows": "100"}, "whole number"),
        ({"maximum_jobs_per_buyer": -1}, "at least 0"),
        ({"approval": "auto"}, "automatic or manual"),
        ({"approval": True}, "automatic or manual"),
        ({"not_after": "2027-01-01"}, "a date"),
        ({"columns": {"age": 1}}, "list of names"),
    ],
)
def test_a_wrong_policy_is_an_error_at_once(changes: dict[str, object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        policy(**changes)


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        Policy.parse("[policy]\nminimum_row = 3\n")
    assert "minimum_rows" in caught.value.hint and "'minimum_row'" in caught.value.public


@pytest.mark.parametrize("text", ["[policy", "policy = 3", "[policy]\nnot_after = 2027-01-01T00:00:00\n"])
def test_a_wrong_text(text: str) -> None:
    with pytest.raises(BadInput):
        Policy.parse(text)
