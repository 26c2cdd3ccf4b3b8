import json

import pytest

pytestmark = pytest.mark.slow


def test_dollars_in_names_do_not_become_formulas_on_the_sheet(audit, project):
    (project / "photos" / "2" / "cut.jpg").rename(project / "photos" / "2" / "cut $x_$.jpg")
    (project / "photos" / "1" / "03.jpg").rename(project / "photos" / "1" / "a$5_$.jpg")
    poses = [{"id": 1, "name": "Front $_$ Spread"}, {"id": 2, "name": "Side Chest"}]
    (project / "poses.json").write_text(json.dumps(poses))
    done = audit("--sheet", project / "s.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "s.png").exists()
