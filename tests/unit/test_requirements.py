import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
SETS = ("dev", "steps", "operator", "server")


def pins(name: str) -> dict[str, set[str]]:
    """Package → its pins (one per Python version where they differ)."""
    found: dict[str, set[str]] = {}
    for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;\\]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("name", ["steps", "operator", "server"])
def test_every_set_pins_the_same_versions_as_the_development_set(name):
    development = pins("dev")
    assert {p: v for p, v in pins(name).items() if not v <= development.get(p, set())} == {}


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_a_hash_and_no_line_names_an_index(name):
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert [b.split()[0] for b in blocks if "--hash=sha256:" not in b] == []
    assert not re.search(r"index-url|find-links|://", text)


@pytest.mark.parametrize("name", SETS)
def test_every_direct_requirement_is_locked(name):
    lines = (REQUIREMENTS / f"{name}.in").read_text().splitlines()
    wanted = [re.match(r"[A-Za-z0-9._-]+", x)[0].lower() for x in lines if x and not x.startswith(("#", "-r"))]
    assert [w for w in wanted if w.replace("_", "-") not in pins(name)] == []


def test_the_servers_image_stays_slim():
    assert {"feast", "mlflow", "mlflow-skinny", "kfp", "skl2onnx", "optuna", "scikit-learn", "scipy", "duckdb"} & set(
        pins("server")
    ) == set()


def test_the_steps_image_holds_no_server_and_no_user_interface():
    assert {"kserve", "mlflow", "pytest", "ray"} & set(pins("steps")) == set()
