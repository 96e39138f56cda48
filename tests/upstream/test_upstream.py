"""A few of upstream's tests on the fence, where ENCLAVE_CRYPTEN_TESTS names a checkout of the CrypTen repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.upstream.suite import cases_of, run_all

CHECKOUT = os.environ.get("ENCLAVE_CRYPTEN_TESTS", "")
FILES = os.environ.get("ENCLAVE_CRYPTEN_FILES", "test_binary").split()


@pytest.mark.skipif(not CHECKOUT, reason="ENCLAVE_CRYPTEN_TESTS names no checkout of CrypTen")
@pytest.mark.parametrize("module", FILES)
def test_upstream(module: str) -> None:
    cases = [case for case in cases_of(Path(CHECKOUT), module) if case.klass != "TestTTP"]
    failed = {f"{o.case.klass}.{o.case.test}": o.text for o in run_all(Path(CHECKOUT), cases) if o.kind}
    assert cases and failed == {}


def test_test_methods_are_found_with_those_of_mixins(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_x.py").write_text(
        "class Base:\n    def test_a(self): pass\n    def helper(self): pass\n"
        "class TestTFP(MultiProcessTestCase, Base):\n    def test_b(self): pass\n"
        "class Test3PC(MultiProcessTestCase, Base): pass\n"
    )
    found = [(case.klass, case.test, case.parties) for case in cases_of(tmp_path, "test_x")]
    assert found == [("TestTFP", "test_b", 2), ("TestTFP", "test_a", 2), ("Test3PC", "test_a", 3)]
