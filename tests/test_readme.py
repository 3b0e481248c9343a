"""README says what is there: files and their lengths, links, flags, recipes."""

import re
from pathlib import Path

import pytest

from eval import EvalConfig
from loss import ALGOS
from run.settings import RECIPES, Config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def section(heading):
    """The text below a heading, up to the next one."""
    assert f"\n## {heading}\n" in README
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_reading_order_names_every_script_and_its_lines():
    rows = re.findall(r"\| \[(.+?)\]\((.+?)\) \| (\d+) \|", section("The files, in reading order"))
    scripts = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.py"), *ROOT.glob("figures/*.py")]]
    assert sorted(file for file, _, _ in rows) == sorted(scripts)
    for file, link, lines in rows:
        assert link == file
        assert int(lines) == pytest.approx(len((ROOT / file).read_text().splitlines()), abs=10), file


def test_links_lead_somewhere():
    anchors = {
        "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link in anchors
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_flags_that_readme_names_are_flags():
    known = {"num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"}
    known |= {"multi_gpu", "num_cpu_threads_per_process", "max_restarts"}  # accelerate's
    known |= Config.__dataclass_fields__.keys() | EvalConfig.__dataclass_fields__.keys()
    for script in [*ROOT.glob("figures/*.py"), *ROOT.glob("benchmarks/*.py")]:
        known |= set(re.findall(r'"--(\w+)"', script.read_text()))
    named = set(re.findall(r"--(\w+)", README))
    assert len(named) > 20 and not named - known


def test_recipes_and_algorithms_are_all_there():
    for name in (*RECIPES, *ALGOS):
        assert f"`{name}`" in README
