"""node.toml: defaults, unknown keys, types, ranges, and the file that a new home gets."""

from __future__ import annotations

import stat
from dataclasses import fields
from pathlib import Path

import pytest

from enclave.errors import BadInput, StoreError
from parties.config import FILE_NAME, NodeConfig, write_default


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert NodeConfig.load(tmp_path) == NodeConfig()
    (tmp_path / FILE_NAME).write_text("")
    assert NodeConfig.load(tmp_path) == NodeConfig()


def test_the_defaults_are_safe() -> None:
    config = NodeConfig()
    assert config.production and config.listen_host == "127.0.0.1"
    assert config.peer_lost_s <= 10
    assert len(fields(NodeConfig)) <= 20


def test_the_written_default_is_the_default_and_names_every_key(tmp_path: Path) -> None:
    path = write_default(tmp_path)
    assert NodeConfig.load(tmp_path) == NodeConfig()
    text = path.read_text()
    assert all(f"\n{field.name} = " in text for field in fields(NodeConfig))
    assert all("#" in line for line in text.splitlines())
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_written_values_are_read_back(tmp_path: Path) -> None:
    write_default(tmp_path, listen="0.0.0.0:9000", advertise="node.example.org:9000", profile="development")
    config = NodeConfig.load(tmp_path)
    assert (config.listen_host, config.listen_port, config.address) == ("0.0.0.0", 9000, "node.example.org:9000")
    assert not config.production


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("max_jobs = 2\n")
    with pytest.raises(BadInput, match="exists already"):
        write_default(tmp_path)
    assert NodeConfig.load(tmp_path).max_jobs == 2


def test_a_missing_home_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        write_default(tmp_path / "nowhere")


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        NodeConfig.parse("max_job = 3\n")
    assert "'max_job'" in caught.value.public and "max_jobs" in caught.value.hint
    with pytest.raises(BadInput, match="unknown key 'limits'"):
        NodeConfig.parse("[limits]\nmax_jobs = 3\n")


@pytest.mark.parametrize(
    "text",
    [
        "listen = 7600",
        "listen = '127.0.0.1'",
        "listen = ':7600'",
        "listen = '127.0.0.1:70000'",
        "listen = '127.0.0.1:-1'",
        "listen = '127.0.0.1: 80'",
        "listen = 'a b:80'",
        "listen = '::1:80'",
        "listen = 'http://x:80'",
        "advertise = 'node.example.org:0'",
        "worker_ports = [7000]",
        "worker_ports = [7000, 6999]",
        "worker_ports = [80, 90]",
        "worker_ports = [7000, 7001]\nmax_jobs = 3",
        "worker_ports = [7000, 7006]\nmax_jobs = 4\ntransport = 'socket'",
        "transport = 'tls'",
        "worker_ports = [7000, 70000]",
        "worker_ports = [7000.0, 7100]",
        "worker_ports = [7590, 7610]",
        "worker_ports = 7000",
        "profile = 'prod'",
        "max_jobs = 0",
        "max_jobs = '3'",
        "max_jobs = true",
        "max_jobs = 2.5",
        "max_spec_bytes = 10",
        "max_rows = -1",
        "max_dealer_bytes = 0",
        "max_store_bytes = -1",
        "step_deadline_s = 0",
        "step_deadline_s = nan",
        "step_deadline_s = inf",
        "step_deadline_s = 'soon'",
        "peer_lost_s = 11",
        "lease_s = 1",
        "max_run_s = 0",
        "max_lifetime_s = 0",
        "shutdown_s = -1",
        "max_open_jobs_per_buyer = 0",
        "max_jobs = 1\nmax_jobs = 2",
        "not toml",
    ],
)
def test_wrong_values_are_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        NodeConfig.parse(text)
    assert caught.value.code == "input.config"
    assert "must be" in caught.value.public or "TOML" in caught.value.public


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("'[::1]:80'", "::1", 80),
        ("'localhost:0'", "localhost", 0),
        ("'node-1.example.org:7600'", "node-1.example.org", 7600),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    config = NodeConfig.parse(f"listen = {text}")
    assert (config.listen_host, config.listen_port) == (host, port)


def test_whole_seconds_are_fine_for_a_duration() -> None:
    assert NodeConfig.parse("step_deadline_s = 5").step_deadline_s == 5.0


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        NodeConfig.load(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreError, match="cannot read"):
        NodeConfig.load(tmp_path)
