import json


def test_dollars_in_names_do_not_become_formulas_on_the_sheet(audit, data):
    (data / "photos" / "2" / "cut.jpg").rename(data / "photos" / "2" / "cut $x_$.jpg")
    (data / "photos" / "1" / "03.jpg").rename(data / "photos" / "1" / "a$5_$.jpg")
    poses = [{"id": 1, "name": "Front $_$ Spread"}, {"id": 2, "name": "Side Chest"}]
    (data / "poses.json").write_text(json.dumps(poses))
    done = audit("--sheet", data / "s.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (data / "s.png").exists()
