"""The benchmark of evaluation runs, reduced, and its contenders agree."""

import json
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_eval.py"


def test_it_runs_and_writes_its_figures(tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    file = tmp_path / "bench.json"
    main(["--classes", "2", "3", "--megapixels", "0.01", "--rounds", "1", "--json", str(file)])
    results = json.loads(file.read_text())
    assert [row["classes"] for row in results["logits"]] == [2, 2, 3, 3]
    for row in results["logits"]:
        assert row["contenders"]["segfocal"]["ratio"] == 1
        assert len(row["contenders"]) == 5
    assert results["masks"]["pairs"] == 60
    assert "60 pairs of masks" in capsys.readouterr().out
