from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from edge_sft import recipe, strict_toml
from edge_sft.errors import UserError

GOOD = """
name = "caps"
[task]
labels = ["good", "scratch"]
ok = ["good"]
[data]
path = "pictures"
"""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int
    rate: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()


def problems(text: str, model: type[BaseModel] = Outer) -> str:
    with pytest.raises(UserError) as caught:
        strict_toml.loads(text, model, source="x.toml")
    return str(caught.value)


def test_all_problems_at_once_each_with_its_line() -> None:
    told = problems('nme = "a"\n\n[inner]\nsize = "big"\nrat = 2\n')
    assert "x.toml: has 4 problems" in told
    assert "line 1: unknown key 'nme'; did you mean 'name'?" in told
    assert "line 4" in told
    assert "line 5: unknown key 'inner.rat'; did you mean 'rate'?" in told
    assert "'name' is missing" in told


def test_arrays_of_tables_have_lines_too() -> None:
    told = problems('name = "a"\n[inner]\nsize = 1\n[[many]]\nsize = 1\n[[many]]\nsize = "x"\n')
    assert "line 7" in told


def test_not_toml_at_all() -> None:
    assert "not valid TOML" in problems("name = = 3")
    assert "line 1" in problems("name = = 3")


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        strict_toml.load(tmp_path / "none.toml", Outer)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(UserError, match="UTF-8"):
        strict_toml.load(tmp_path / "latin.toml", Outer)


def test_recipe_reads_and_resolves_paths(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(GOOD)
    loaded = recipe.load(tmp_path / "recipe.toml")
    assert loaded.data.path == str(tmp_path / "pictures")
    assert loaded.ok_labels == ("good",)
    assert loaded.image.preprocess().height == 224


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("ok = [", 'ok = ["fine", '), "not among task.labels"),
        (('path = "pictures"', 'path = "p"\n[image]\nroi = [0.5, 0.0, 0.2, 1.0]'), "roi must be"),
        (('path = "pictures"', 'path = "p"\n[train]\nstps = 3'), "did you mean 'steps'"),
        (('path = "pictures"', 'path = "p"\n[train]\nbatch_size = 1'), "greater than or equal to 2"),
        (('path = "pictures"', 'path = "p"\n[export]\nvariants = ["fp16"]'), "fp32 is the reference"),
        (('ok = ["good"]', ""), "max_escape_rate needs"),
    ],
)
def test_impossible_recipes_are_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = GOOD.replace(*change)
    if "max_escape_rate" in words:
        text += "[policy]\nmax_escape_rate = 0.01\n"
    with pytest.raises(UserError) as caught:
        strict_toml.loads(text, recipe.Recipe, source="recipe.toml")
    assert words in str(caught.value)
