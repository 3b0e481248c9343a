"""README, those of the wings and CONTRIBUTING say what is there: files, links, commands, flags, recipes."""

import re

import pytest
from conftest import ROOT

from eval import EvalConfig
from loss import ALGOS
from pretrain import PretrainConfig
from run.settings import RECIPES, Config

WINGS = ["run", "analysis", "miniature", "benchmarks"]
DOCS = ["README.md", *(f"{wing}/README.md" for wing in WINGS), "benchmarks/SCALE.md", "CONTRIBUTING.md"]
ALL_DOCS = pytest.mark.parametrize("doc", DOCS)
OTHERS_FLAGS = {"num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"}
OTHERS_FLAGS |= {"multi_gpu", "num_cpu_threads_per_process", "max_restarts"}  # accelerate's
OTHERS_FLAGS |= {"dist"}  # of pytest's parallel runs


def text(doc):
    return (ROOT / doc).read_text()


def prose(doc):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text(doc), flags=re.MULTILINE | re.DOTALL)


def anchors(doc):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(doc), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def scripts(folder):
    return sorted(path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")


@ALL_DOCS
def test_links_lead_somewhere(doc):
    for link in re.findall(r"\]\(([^)]+)\)", prose(doc)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / doc).parent / path).resolve() if path else ROOT / doc
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_reading_order_names_every_script_of_the_door_and_its_lines():
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \| (\d+) \|", text("README.md"), re.MULTILINE)
    assert sorted(file for file, _, _ in rows) == scripts(".")
    for file, link, lines in rows:
        assert link == file
        assert int(lines) == pytest.approx(len(text(file).splitlines()), abs=10), file


@pytest.mark.parametrize("wing", WINGS)
def test_a_wings_table_names_every_script_of_it(wing):
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \| [^|]+ \|$", text(f"{wing}/README.md"), re.MULTILINE)
    assert sorted(file for file, _ in rows) == scripts(wing)
    assert all(file == link for file, link in rows)


@ALL_DOCS
def test_scripts_and_commands_that_are_named_exist(doc):
    for file in re.findall(r"\w[\w/]*\.py\b", text(doc)):
        assert (ROOT / file).exists() or (ROOT / doc).with_name(file).exists(), file
    for file in re.findall(r"\bpython\s+([\w/]+\.py)", text(doc)):  # a command is given from the root
        assert (ROOT / file).exists(), file
    for module in re.findall(r"\s-m\s+([\w.]+)", text(doc)):
        assert module == "pytest" or (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    targets = re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)[1].split()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text(doc), re.MULTILINE):
        assert target in targets, target


def test_the_checks_of_commands_and_flags_see_some():
    everything = "".join(map(text, DOCS))
    assert len(set(re.findall(r"\s-m\s+([\w.]+)", everything))) > 10
    assert len(set(re.findall(r"--(\w+)", everything))) > 40


@ALL_DOCS
def test_flags_that_are_named_are_flags(doc):
    known = OTHERS_FLAGS.union(*(c.__dataclass_fields__ for c in (Config, EvalConfig, PretrainConfig)))
    for wing in WINGS:
        for script in scripts(wing):
            known |= set(re.findall(r'add_argument\("--(\w+)"', text(f"{wing}/{script}")))
    assert not set(re.findall(r"--(\w+)", text(doc))) - known


def test_recipes_and_algorithms_are_all_there():
    for name in (*RECIPES, *ALGOS):
        assert f"`{name}`" in text("README.md")


def test_what_is_read_first_is_short():
    assert len(text("README.md").splitlines()) <= 260
    assert len(text("CONTRIBUTING.md").splitlines()) < 40
