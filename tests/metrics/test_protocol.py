"""What evaluations record about themselves, and which of them may be compared."""

from __future__ import annotations

import hashlib
import re

import pytest

from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.metrics import CaseScore, Conventions
from medmap_components.metrics.protocol import (
    RunIdentity,
    make_protocol,
    protocol_differences,
    read_protocol,
    write_protocol,
)


def protocol(identity=None, studies=("a", "b"), shown="all", counts=(9, 0, 0, 1), conventions=None, **inferer):
    cases = [CaseScore(study, "all", shown, {}) for study in studies]
    infer = SubsetSlidingWindowInferer(**{"roi_size": 32, "overlap": 0.5, "mode": "gaussian", **inferer})
    references = dict.fromkeys(studies, counts)
    return make_protocol(identity or RunIdentity("net"), infer, conventions or Conventions(), cases, references)


def test_run_and_protocol_are_recorded(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    write_protocol(tmp_path / "protocol.json", protocol(RunIdentity("net", 3, str(weights))))
    content = read_protocol(tmp_path / "protocol.json")
    assert content["cases"] == ["a", "b"]
    assert content["run"]["seed"] == 3
    assert content["run"]["window"] == [32, 32, 32]
    assert content["run"]["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert content["protocol"]["overlap"] == [0.5, 0.5, 0.5]
    assert content["protocol"]["blending"] == "gaussian"
    assert len(content["protocol"]["subsets"]) == 15


def test_other_weights_and_windows_of_one_protocol_may_be_compared():
    assert protocol_differences(protocol(), protocol(RunIdentity("other", 1), roi_size=(80, 80, 80))) == []
    assert protocol_differences(protocol(), protocol(studies=("b", "a"))) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overlap": 0.25}, r"overlap: \[0.5, 0.5, 0.5\] and \[0.25, 0.25, 0.25\]"),
        ({"mode": "constant"}, "blending: 'gaussian' and 'constant'"),
        ({"subsets": [["t1"]]}, "subsets: .*'T2'.* and .*'T1'"),
        ({"conventions": Conventions(small_et=100)}, "ET_pp: .*500.*100"),
        ({"conventions": Conventions(surface="surfels")}, "HD95: "),
        ({"counts": (8, 0, 0, 2)}, "references_sha256: the references"),
        ({"shown": "T1"}, "situations_sha256: .*other modalities"),
        ({"studies": ("a", "c")}, r"cases: 1 are only in the first \['b'\], 1 only in the second \['c'\]"),
    ],
)
def test_anything_else_is_a_difference(changes, said):
    (difference,) = protocol_differences(protocol(), protocol(**changes))
    assert re.match(said, difference)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "protocol.json"
    with pytest.raises(FileNotFoundError, match=r"protocol\.json does not exist"):
        read_protocol(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read_protocol(path)
    path.write_text('{"run": 1}')
    with pytest.raises(ValueError, match="must hold"):
        read_protocol(path)
