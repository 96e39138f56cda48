"""The README and the docs say commands and files that exist: every one is parsed, none is trusted to memory."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from enclave.datasets.description import read_description
from enclave.policy import Policy
from parties.buyer.encodings import parse_encoding
from parties.cli.arguments import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/datasets.md", "docs/operations.md")


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def _commands(page: str) -> list[str]:
    """Every `enclave ...` that a prompt precedes."""
    found = []
    for block in _blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\w*\$\s+(.*)", line)
            if match:
                found += [part.strip() for part in match[1].split("&&") if part.strip().startswith("enclave ")]
    return found


def test_every_command_of_the_readme_is_one() -> None:
    commands = _commands("README.md")
    assert len(commands) >= 20
    said = {" ".join(build_parser().parse_args(shlex.split(c)[1:]).command.split()[:2]) for c in commands}
    nodes = {"owner add", "owner serve", "owner approve", "owner jobs", "dealer serve"}
    buyers = {"buyer datasets", "buyer quote", "buyer evaluate", "buyer train", "buyer result"}
    assert said >= {"init", "trust", "auditor verify", *nodes, *buyers}


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_running_text_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    words = {match.split()[0] for match in re.findall(r"`enclave ([a-z][^`]*)`", text)}
    groups = next(a for a in build_parser()._actions if hasattr(a, "choices") and a.choices)
    assert words <= set(groups.choices or ()), words


@pytest.mark.parametrize("page", ["README.md", "docs/datasets.md"])
def test_every_file_that_is_shown_can_be_read(page: str, tmp_path: Path) -> None:
    blocks = _blocks(page, "toml")
    assert len(blocks) == 2
    (tmp_path / "shown.toml").write_text(blocks[0])
    assert read_description(tmp_path / "shown.toml").name == "patients"
    policy = Policy.parse(blocks[0])
    assert policy.buyers == (("lab",) if page == "README.md" else ())
    assert parse_encoding(tomllib.loads(blocks[1])).target is not None


def test_every_policy_key_is_described() -> None:
    from enclave.policy import _READERS

    rows = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/datasets.md").read_text(), re.MULTILINE))
    assert rows == set(_READERS)


@pytest.mark.parametrize("page", [*PAGES, "SECURITY.md", "CHANGELOG.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target
