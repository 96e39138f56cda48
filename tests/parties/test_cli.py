"""The command line as transcripts: what is typed, what comes back, and with which exit code."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from enclave.identity import Identity
from parties.cli.arguments import build_parser
from parties.cli.units import bandwidth_bps, bytes_text, duration_s, seconds_text
from parties.config import NodeConfig
from tests.parties.shell import Shell, enclave

__all__ = ["enclave"]


# ---- identity


def test_init_makes_a_home_and_says_what_to_do_next(enclave: Shell, tmp_path: Path) -> None:
    home = tmp_path / "clinic"
    assert enclave("init", "owner", "clinic", "--home", home, "--listen", "127.0.0.1:7999") == 0
    assert re.fullmatch(
        rf"owner clinic lives in {home}\n"
        r"key      ([0-9a-f]{4} ){7}[0-9a-f]{4}\n"
        r"address  127\.0\.0\.1:7999\n"
        rf"card     {home}/card\n"
        r"next     give the card .*\n",
        enclave.out,
    )
    assert enclave.err == ""
    assert stat.S_IMODE((home / "signing.key").stat().st_mode) == 0o600
    assert 'listen = "127.0.0.1:7999"' in (home / "node.toml").read_text()


def test_a_party_says_who_runs_it(enclave: Shell, tmp_path: Path) -> None:
    home = tmp_path / "clinic"
    words = ["init", "owner", "clinic", "--home", home, "--organisation"]
    assert enclave(*words, "two\nlines") == 1
    assert "organisation must be one line" in enclave.err and not home.exists()
    assert enclave(*words, " Hospital Trust ", "--json") == 0
    assert enclave.json()["organisation"] == "Hospital Trust"
    assert enclave("card", "--home", home) == 0
    assert "owner clinic\nrun by   Hospital Trust\nkey " in enclave.out
    assert enclave("rotate", "--home", home, "--json") == 0
    assert enclave.json()["organisation"] == "Hospital Trust"


def test_init_uses_the_home_of_the_environment(enclave: Shell, tmp_path: Path) -> None:
    assert enclave("init", "buyer", "lab", "--json") == 0
    assert enclave.json()["home"] == str(tmp_path / "default-home")
    assert not (tmp_path / "default-home" / "node.toml").exists()


def test_the_home_may_stand_before_or_after_the_command(enclave: Shell, tmp_path: Path) -> None:
    assert enclave("--home", tmp_path / "a", "--json", "init", "buyer", "lab") == 0
    assert enclave.json()["home"] == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init", "king", "x"], "invalid choice: 'king'"),
        (["init", "owner"], "required: NAME"),
        (["init", "owner", "x", "--listen", "nowhere"], "expected HOST:PORT, found 'nowhere'"),
        (["init", "owner", "x", "--listen", "h:99999"], "expected HOST:PORT"),
        (["trust"], "required: CARD"),
        (["card", "extra"], "unrecognized arguments: extra"),
        (["rotate", "--now"], "unrecognized arguments: --now"),
        (["owner"], "required: COMMAND"),
        (["owner", "add"], "required: DATASET.toml"),
        (["owner", "approve"], "required: JOB"),
        (["owner", "withdraw"], "required: JOB"),
        (["owner", "serve", "now"], "unrecognized arguments: now"),
        (["owner", "jobs", "now"], "unrecognized arguments: now"),
        (["dealer", "deal"], "invalid choice: 'deal'"),
        (["buyer", "datasets", "x"], "unrecognized arguments: x"),
        (["buyer", "quote"], "required: COMMAND"),
        (["buyer", "quote", "train", "--data", "a/b", "--encoding", "e"], "required: --kind"),
        (["buyer", "quote", "evaluate", "--latency", "soon"], "expected a number with a unit, found 'soon'"),
        (["buyer", "quote", "evaluate", "--bandwidth", "9parsec"], "expected a bandwidth such as 100Mbit"),
        (["buyer", "evaluate"], "required: --data, --encoding, --model"),
        (["buyer", "evaluate", "--metric", "beauty"], "invalid choice: 'beauty'"),
        (["buyer", "evaluate", "--block-rows", "0"], "expected a whole number above 0, found '0'"),
        (["buyer", "train", "--kind", "forest"], "invalid choice: 'forest'"),
        (["buyer", "train", "--kind", "mlp", "--hidden", "64,x"], "expected a whole number above 0, found 'x'"),
        (["buyer", "predict"], "required: --data, --encoding, --model"),
        (["buyer", "jobs", "x"], "unrecognized arguments: x"),
        (["buyer", "result"], "required: JOB"),
        (["auditor", "verify"], "required: RECEIPT"),
        (["auditor", "report"], "required: REPORT.json"),
        (["demo", "x"], "unrecognized arguments: x"),
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_wrong_usage_says_what_and_exits_with_2(enclave: Shell, words: list[str], message: str) -> None:
    assert enclave(*words) == 2
    assert enclave.out == ""
    assert enclave.err.startswith("usage: enclave")
    assert message in enclave.err
    assert re.search(r"^hint: see enclave.* --help$", enclave.err, re.MULTILINE)
    assert enclave(*words, "--json") == 2
    error = enclave.json()["error"]
    assert isinstance(error, dict) and error["code"] == "usage" and message in str(error["message"])


def test_a_home_is_made_once(enclave: Shell, tmp_path: Path) -> None:
    assert enclave("init", "buyer", "lab", "--home", tmp_path / "lab") == 0
    assert enclave("init", "buyer", "lab", "--home", tmp_path / "lab") == 1
    assert re.match(r"error: .* is not empty.*\nhint: ", enclave.err)
    assert enclave.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init", "owner", "a b"], "is not a plain name"),
        (["init", "buyer", "lab", "--listen", "127.0.0.1:1"], "buyer does not listen"),
        (["init", "owner", "x", "--listen", "0.0.0.0:7101"], "others cannot connect to 0.0.0.0:7101"),
        (["trust", "no-such-card"], "is not a home"),
        (["card"], "is not a home"),
        (["rotate"], "is not a home"),
        (["move", "h:7101"], "is not a home"),
    ],
)
def test_refused_input_says_what_and_exits_with_1(enclave: Shell, words: list[str], message: str) -> None:
    assert enclave(*words) == 1
    assert enclave.out == "" and re.match(r"error: .*", enclave.err) and message in enclave.err
    assert "Traceback" not in enclave.err
    assert enclave(*words, "--json") == 1
    assert enclave.err == ""
    error = enclave.json()["error"]
    assert isinstance(error, dict) and set(error) == {"code", "message", "hint"} and message in str(error["message"])


def test_cards_are_shown_copied_and_trusted(enclave: Shell, tmp_path: Path) -> None:
    enclave("init", "buyer", "lab", "--home", tmp_path / "lab")
    enclave("init", "owner", "clinic", "--home", tmp_path / "clinic")
    assert enclave("card", "--home", tmp_path / "clinic", "--out", tmp_path / "clinic.card", "--json") == 0
    key_id = enclave.json()["key_id"]
    assert enclave("trust", tmp_path / "clinic.card", "--home", tmp_path / "lab") == 0
    assert enclave.out.startswith("lab trusts owner clinic at 127.0.0.1:7600\nrun by   clinic\nkey      ")
    assert enclave("card", "--home", tmp_path / "lab", "--json") == 0
    trusts = enclave.json()["trusts"]
    known = {"role": "owner", "name": "clinic", "organisation": "clinic", "address": "127.0.0.1:7600"}
    assert trusts == [{**known, "key_id": key_id}]
    assert enclave("card", "--home", tmp_path / "clinic", "--out", tmp_path / "clinic.card") == 1
    assert "exists already" in enclave.err


def test_a_damaged_or_missing_card_is_not_trusted(enclave: Shell, tmp_path: Path) -> None:
    enclave("init", "buyer", "lab", "--home", tmp_path / "lab")
    enclave("init", "owner", "clinic", "--home", tmp_path / "clinic")
    card = bytearray((tmp_path / "clinic" / "card").read_bytes())
    card[40] ^= 1
    (tmp_path / "damaged").write_bytes(card)
    assert enclave("trust", tmp_path / "damaged", "--home", tmp_path / "lab") == 1
    assert enclave.err.startswith("error: ")
    assert enclave("trust", tmp_path / "absent", "--home", tmp_path / "lab") == 1
    assert enclave.err == (
        f"error: cannot use {tmp_path}/absent: no such file or directory\nhint: check the path and its permissions\n"
    )


def test_another_key_under_a_known_name_needs_replace(enclave: Shell, tmp_path: Path) -> None:
    enclave("init", "buyer", "lab", "--home", tmp_path / "lab")
    for folder in ("one", "two"):
        enclave("init", "owner", "clinic", "--home", tmp_path / folder)
    assert enclave("trust", tmp_path / "one" / "card", "--home", tmp_path / "lab") == 0
    assert enclave("trust", tmp_path / "two" / "card", "--home", tmp_path / "lab") == 1
    assert "already trusted with another key" in enclave.err
    assert enclave("trust", tmp_path / "two" / "card", "--home", tmp_path / "lab", "--replace") == 0


def test_rotate_keeps_the_key_and_renews_the_certificate(enclave: Shell, tmp_path: Path) -> None:
    enclave("init", "owner", "clinic", "--home", tmp_path / "clinic", "--json")
    before = enclave.json()
    old = (tmp_path / "clinic" / "tls.pem").read_bytes()
    assert enclave("rotate", "--home", tmp_path / "clinic", "--json") == 0
    assert enclave.json()["key_id"] == before["key_id"]
    assert (tmp_path / "clinic" / "tls.pem").read_bytes() != old


# ---- a node's address


@pytest.mark.parametrize(
    ("made", "moved", "listen", "advertise"),
    [
        ([], ["h:7101"], "h:7101", ""),
        ([], ["h.example:7101", "--listen", "0.0.0.0:7102"], "0.0.0.0:7102", "h.example:7101"),
        (["--listen", "0.0.0.0:7600", "--advertise", "h:7600"], ["h:7601"], "0.0.0.0:7601", "h:7601"),
        (["--listen", "0.0.0.0:7600", "--advertise", "h:9000"], ["g:9001"], "0.0.0.0:7600", "g:9001"),
    ],
)
def test_a_node_moves(
    enclave: Shell, tmp_path: Path, made: list[str], moved: list[str], listen: str, advertise: str
) -> None:
    home = tmp_path / "clinic"
    assert enclave("init", "owner", "clinic", "--home", home, *made) == 0
    file = home / "node.toml"
    file.write_text("# ours\n" + file.read_text().replace("max_jobs = 4", "max_jobs = 9"))
    enclave("card", "--home", home, "--json")
    key_id = enclave.json()["key_id"]
    enclave("init", "buyer", "lab", "--home", tmp_path / "lab")
    assert enclave("trust", home / "card", "--home", tmp_path / "lab") == 0
    assert enclave("move", *moved, "--home", home) == 0
    assert "next     restart the node" in enclave.out
    config = NodeConfig.load(home)
    assert (config.listen, config.advertise, config.max_jobs) == (listen, advertise, 9)
    assert file.read_text().startswith("# ours\n")
    assert enclave("trust", home / "card", "--home", tmp_path / "lab", "--json") == 0
    assert enclave.json()["address"] == moved[0] and enclave.json()["key_id"] == key_id
    Identity.load(home)


def test_a_move_that_cannot_be_written_changes_nothing(enclave: Shell, tmp_path: Path) -> None:
    home = tmp_path / "clinic"
    enclave("init", "owner", "clinic", "--home", home)
    card = (home / "card").read_bytes()
    for text, words in [
        ('"listen" = "127.0.0.1:7600"\n', ["h:7101"]),
        ("worker_ports = [7100, 7200]\n", ["h:7101"]),
        ("", ["0.0.0.0:7101"]),
    ]:
        (home / "node.toml").write_text(text)
        assert enclave("move", *words, "--home", home) == 1
        assert (home / "node.toml").read_text() == text and (home / "card").read_bytes() == card
    enclave("init", "buyer", "lab", "--home", tmp_path / "lab")
    assert enclave("move", "h:7101", "--home", tmp_path / "lab") == 1
    assert "buyer lab does not listen" in enclave.err
    (home / "node.toml").unlink()
    assert enclave("move", "h:7101", "--home", home) == 0
    assert NodeConfig.load(home).listen == "h:7101"


# ---- units, help, start


def test_units() -> None:
    assert bandwidth_bps("100Mbit") == bandwidth_bps("100") == bandwidth_bps("12.5MB/s") == 1e8
    assert duration_s("40ms") == 0.04 and duration_s("2h") == 7200 and duration_s("3") == 3
    assert [bytes_text(n) for n in (0, 999, 1000, 3_204_000, 999_999_999)] == [
        "0 B", "999 B", "1.00 kB", "3.20 MB", "1.00 GB",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (0.4, 12.34, 250, 11_100)] == ["0.40 s", "12.3 s", "4 min 10 s", "3 h 05 min"]


def test_every_command_has_help_home_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    leaves = _leaves([])
    assert len(leaves) == 24
    for words in leaves:
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([*words, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "--home" in text and "--json" in text, words


def test_the_help_of_train_names_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["buyer", "train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for said in ("rows, default 10", "step, default 64", "RATE default 0.1", "default 0.9", "decay, default 0"):
        assert said in text, said


def _leaves(words: list[str]) -> list[list[str]]:
    import argparse

    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = action.choices[word]
    action = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
    if action is None:
        return [words]
    return [leaf for name in action.choices for leaf in _leaves([*words, name])]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, parties.cli; code = parties.cli.main(['--help']);"
        "heavy = {'torch', 'crypten', 'grpc', 'numpy', 'pyarrow', 'onnx', 'sklearn', 'sqlalchemy', 'matplotlib',"
        " 'cryptography', 'google.protobuf'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "COMMAND" in done.stdout


def test_an_interrupted_command_says_so_in_the_form_asked_for(
    enclave: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Identity, "create", stop)
    assert enclave("init", "buyer", "lab", "--home", tmp_path / "lab") == 130
    assert (enclave.out, enclave.err) == ("", "interrupted\n")
    assert enclave("init", "buyer", "lab", "--home", tmp_path / "lab", "--json") == 130
    assert enclave.json()["error"]["code"] == "interrupted"
