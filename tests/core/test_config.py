"""Config ⇄ YAML ⇄ `a.b=c`: what is read is what was written; what is misspelt is refused with the right spelling."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fledge.core.config import Config, dump_config, load_config, set_path
from fledge.core.errors import FledgeError
from fledge.stages import STAGES, load_stage


class Inner(Config):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Outer(Config):
    model: Path
    depth: int = Field(4, gt=0)
    name: Literal["muon", "adamw"] = "muon"
    inner: Inner = Inner()
    maybe: Inner | None = None
    weights: dict[str, float] = {}
    text: str = ""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refused(*overrides: str, file: Path | None = None) -> FledgeError:
    with pytest.raises(FledgeError) as caught:
        load_config(Outer, file, overrides)
    return caught.value


def test_yaml_with_overrides(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "model: runs/a\ndepth: 2\ninner:\n  learning_rate: 0.5\n")
    config = load_config(Outer, file, ["inner.betas=[0.8, 0.9]", "depth=3", "weights.code=0.25", 'text="a: b=c"'])
    assert config == Outer(
        model=Path("runs/a"),
        depth=3,
        inner=Inner(learning_rate=0.5, betas=(0.8, 0.9)),
        weights={"code": 0.25},
        text="a: b=c",
    )


def test_scientific_notation_without_a_dot() -> None:
    """YAML 1.1 reads 2e-4 as text; nobody who writes it means that."""
    assert load_config(Outer, None, ["model=m", "inner.learning_rate=2e-4"]).inner.learning_rate == 2e-4


def test_an_empty_group_in_the_file_can_be_filled(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "model: m\nmaybe:\n")
    assert load_config(Outer, file, ["maybe.learning_rate=1"]).maybe == Inner(learning_rate=1)


@pytest.mark.parametrize(
    ("overrides", "message", "remedy"),
    [
        (["model=m", "dept=3"], "unknown key 'dept' in the command line", "did you mean 'depth'?"),
        (["dept=3"], "unknown key 'dept' in the command line", "did you mean 'depth'?"),
        (["mdoel=m"], "unknown key 'mdoel' in the command line", "did you mean 'model'?"),
        (["model=m", "inner.learning_rat=3"], "unknown key 'inner.learning_rat'", "did you mean 'learning_rate'?"),
        (["model=m", "maybe.beta=3"], "unknown key 'maybe.beta'", "did you mean 'betas'?"),
        (["model=m", "inner.xyz=3"], "unknown key 'inner.xyz'", "known keys: learning_rate, betas"),
        ([], "'model' is missing in the command line", "give it: model=…"),
        (
            ["model=m", "depth=many"],
            "'depth' in the command line: Input should be a valid integer",
            "correct the value",
        ),
        (["model=m", "depth=0"], "'depth' in the command line: Input should be greater than 0", "correct the value"),
        (["model=m", "name=sgd"], "'name' in the command line: Input should be 'muon' or 'adamw'", "correct the value"),
        (["model=m", "depth"], "override 'depth' is not of the form key=value", "write e.g."),
        (["model=m", "=3"], "override '=3' is not of the form key=value", "write e.g."),
        (["depth=3", "depth.x=3"], "'depth.x': 'depth' is a value, not a group of settings", "check the key"),
    ],
)
def test_refusals(overrides: list[str], message: str, remedy: str) -> None:
    error = refused(*overrides)
    assert message in error.message
    assert remedy in error.remedy
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\ndept: 3\n", "unknown key 'dept' in {file}"),
        ("model: [m\n", "{file} is not valid YAML: "),
        ("- a\n- b\n", "{file} must hold 'key: value' lines, not a list"),
        ("just words", "{file} must hold 'key: value' lines, not a str"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "a.yaml", text)
    error = refused(file=file)
    assert message.format(file=file) in error.message
    assert error.remedy
    assert "\n" not in error.message


def test_the_blame_is_shared_where_both_may_be_wrong(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "model: m\n")
    assert f"unknown key 'dept' in {file} and the command line" in refused("dept=1", file=file).message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in refused(file=tmp_path / "none.yaml").message
    assert "cannot be read" in refused(file=tmp_path).message
    (tmp_path / "latin.yaml").write_bytes("text: für".encode("latin-1"))
    assert "cannot be read" in refused(file=tmp_path / "latin.yaml").message


@given(
    depth=st.integers(1, 10**9),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    path=st.text("ab/.ü -", min_size=1),
)
def test_dump_and_load_give_the_same_config(
    tmp_path_factory: pytest.TempPathFactory, depth: int, rate: float, text: str, path: str
) -> None:
    config = Outer(model=Path(path), depth=depth, inner=Inner(learning_rate=rate), text=text, maybe=Inner())
    file = write(tmp_path_factory.mktemp("dump") / "a.yaml", dump_config(config))
    assert load_config(Outer, file) == config


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_has_a_config_that_survives_yaml(name: str, tmp_path: Path) -> None:
    config_class = load_stage(name).config

    def some(annotation: Any) -> Any:
        if get_origin(annotation) is Literal:
            return get_args(annotation)[0]
        return {"a": "b"} if "dict" in str(annotation) else "somewhere"

    required = {key: some(f.annotation) for key, f in config_class.model_fields.items() if f.is_required()}
    config = config_class(**required)
    file = write(tmp_path / "a.yaml", dump_config(config))
    assert load_config(config_class, file) == config


def test_set_path_keeps_the_rest() -> None:
    values: dict[str, Any] = {"a": {"b": 1, "c": 2}}
    set_path(values, "a.b=true")
    set_path(values, "d.e.f=x")
    assert values == {"a": {"b": True, "c": 2}, "d": {"e": {"f": "x"}}}


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(model=Path("m")).depth = 3


def test_dump_is_yaml_in_the_order_of_the_fields() -> None:
    assert list(yaml.safe_load(dump_config(Outer(model=Path("m"))))) == list(Outer.model_fields)
