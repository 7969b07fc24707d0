"""The command ``expressor``: every verb's help, what it says about mistakes, and the verbs that look things up."""

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

import expressor
from expressor.cli import VERBS, main
from expressor.core import registry
from expressor.datasets.examples import example

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, in an empty folder; give exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main(list(words))
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example("histology").write_h5ad(path)
    return path


# Help ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",), ("help",)])
def test_the_command_lists_its_verbs(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    for verb, what in VERBS.items():
        assert f"  {verb:<10} {what}\n" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_module_and_help(run: Run, verb: str) -> None:
    module = importlib.import_module(f"expressor.cli.{verb}")
    assert module.__doc__
    assert module.__doc__.startswith(f"``expressor {verb}")
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert out.lower().startswith(f"usage: expressor {verb}")
    assert len(out.splitlines()) > 3


def test_every_option_of_every_verb_is_explained(run: Run, ridge: Any) -> None:
    """The help is made from docstrings; a parameter that is missing there would be listed bare."""
    import re

    pages = [run(verb, "--help")[1] for verb in VERBS if verb != "fit"] + [run("fit", "gene_ridge", "--help")[1]]
    for page in pages:
        text = re.sub(r"[│╭╰─╮╯]", " ", page)
        for option in re.findall(r"^ *(--\w[\w.-]*(?:, --no-[\w-]+)?.*?)(?=^ *(?:--|-\w[ ,])|\Z)", text, re.S | re.M):
            words = re.sub(r"\(default:.*?\)|\(required\)", "", option.replace("\n", " ")).split()
            assert len([word for word in words if word.islower() and not word.startswith("-")]) >= 2, option


@pytest.mark.parametrize("word", ["-V", "--version", "version"])
def test_the_version_is_told(run: Run, word: str) -> None:
    assert run(word) == (0, f"expressor {expressor.__version__}\n", "")


def test_help_of_fit_lists_the_system_s_own_parameters_and_preset(run: Run, ridge: Any) -> None:
    out = run("fit", "gene_ridge", "--help")[1]
    assert "--penalty" in out
    assert "--plan.lr" in out
    assert "(default: 2.0)" not in out
    assert "(default: 2.0)" in run("fit", "gene_ridge", "--preset", "tiny", "--help")[1]
    assert "(default: 2.0)" in run("fit", "gene_ridge", "--preset=tiny", "--help")[1]


# Mistakes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ftt",), "expressor: unknown verb 'ftt'; expected one of 'demo', 'fit', "),
        (("systms",), "nearest: 'systems'"),
        (("fit", "nope", "x", "-o", "y"), "expressor: no system is called 'nope'"),
        (("systems", "nope"), "expressor: no system is called 'nope'"),
        (("equations", "nope"), "expressor: no system is called 'nope'"),
        (("describe", "nope"), "expressor: nope is not a folder; expected the folder of a saved model"),
        (("predict", "nope", "data", "-o", "out.h5ad"), "expressor: nope is not a folder"),
        (("report", "nope"), "expressor: there is no folder"),
        (
            ("bench", "nope"),
            "expressor: no benchmark task is called 'nope'; expected one of '",
        ),
        (("datasets", "her2ts"), "expressor: no data set is called 'her2ts'; nearest: 'her2st'"),
    ],
)
def test_mistakes_are_told_in_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict",), "--out"),
        (("predict", "a", "b"), "--out"),
        (("predict", "a", "b", "-o", "c", "--kye", "x"), "--kye"),
        (("describe",), "describe"),
        (("report",), "report"),
        (("bench",), "bench"),
        (("bench", "histology", "--seeds", "one"), "seeds"),
        (("demo", "--seed", "zero"), "seed"),
        (("systems", "a", "b"), "b"),
        (("doctor", "now"), "now"),
    ],
)
def test_wrong_words_print_how_to_use_the_verb(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in out + err


def test_wrong_words_to_fit(run: Run, ridge: Any, data: Path, tmp_path: Path) -> None:
    for words, message in {
        ("fit", "gene_ridge"): "--out",
        ("fit", "gene_ridge", "x", "-o", "y", "--penalty", "much"): "much",
        ("fit", "gene_ridge", "x", "-o", "y", "--plan.device", "abacus"): "abacus",
        ("fit", "gene_ridge", "x", "-o", "y", "--preset", "tni"): "unknown preset of GeneRidge 'tni'",
        ("fit", "gene_ridge", "no.h5ad", "-o", "y"): "'no.h5ad' is neither a file nor a data set; expected a path",
        ("fit", "gene_ridge", str(data), "-o", "y", "--penalty", "-1"): "penalty is out of range",
        ("fit", "gene_ridge", str(data), "-o", "y", "--features", "X_simulatd"): "nearest: 'X_simulated'",
    }.items():
        code, out, err = run(*words)
        assert code == 2, words
        assert message in err, words
        assert "Traceback" not in err
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("place", ["file", "folder"])
def test_fit_refuses_to_overwrite_before_it_works(run: Run, ridge: Any, data: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis").write_text("precious")
    (tmp_path / "file").write_text("precious")
    code, _, err = run("fit", "gene_ridge", str(data), "-o", place, "--preset", "tiny")
    assert (code, err) == (
        2,
        f"expressor: {place} exists and is not a saved model. Choose a new folder; nothing was changed.\n",
    )
    assert (tmp_path / "folder/thesis").read_text() == (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"hello", b"\x89HDF\r\n\x1a\n" + b"\0" * 600])
def test_damaged_data_are_told(run: Run, ridge: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5ad").write_bytes(content)
    code, _, err = run("fit", "gene_ridge", "x.h5ad", "-o", "y", "--preset", "tiny")
    assert code == 2
    assert err.startswith("expressor: x.h5ad ")
    assert err.count("\n") == 1


def test_the_whole_traceback_is_shown_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPRESSOR_DEBUG", "1")
    with pytest.raises(expressor.DataError):
        main(["systems", "nope"])


def test_an_interruption_is_told_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expressor.cli.systems.main", interrupt)
    assert run("systems") == (130, "", "expressor: interrupted\n")


def test_a_bug_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("expressor.cli.systems.main", fail)
    with pytest.raises(ZeroDivisionError):
        main(["systems"])


@pytest.mark.parametrize("words", [["--help"], ["systems"], ["equations"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "expressor", *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert done.stderr == ""


# Looking things up --------------------------------------------------------------------------------------------------------


def test_systems_are_listed_and_shown(run: Run, ridge: Any) -> None:
    code, out, _ = run("systems")
    assert code == 0
    for card in registry.systems().values():
        line = next(line for line in out.splitlines() if line.startswith(card.name))
        assert card.estimator in line
        assert card.summary in line
    code, out, _ = run("systems", "GeneRidge")
    assert code == 0
    for text in ("Hoerl, Kennard, 1970", "tiny", "array", "differs from the paper", "limits"):
        assert text in out


def test_equations_are_listed_with_their_fidelity_and_tests(run: Run, ridge: Any) -> None:
    code, out, _ = run("equations", "gene_ridge")
    assert code == 0
    line = next(line for line in out.splitlines() if " ridge " in line)
    assert line.startswith("2")
    for text in ("its minimum", "equations.py:", "paper", "test_equations.py::test_training_finds_the_closed_form"):
        assert text in line
    assert "GeneRidge" in run("equations")[1]


def test_the_doctor_tells_versions_extras_and_folders(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPRESSOR_DATA", "/some/where")
    code, out, _ = run("doctor")
    assert code == 0
    for text in (expressor.__version__, "torch", "cores", "accelerator", "histology", "slides", os.environ["EXPRESSOR_CACHE"],
                 "/some/where"):  # fmt: skip
        assert text in out


def test_the_doctor_says_how_to_install_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expressor.cli.doctor.EXTRAS", {"slides": ("no_such_module", "json")})
    out = run("doctor")[1]
    assert "missing no_such_module" in out
    assert 'pip install "expressor[slides]"' in out


def test_data_sets_are_listed(run: Run) -> None:
    code, out, _ = run("datasets")
    assert code == 0
    assert "her2st" in out
    assert "mouse_olfactory_bulb" in out


def test_a_data_set_is_written_once(run: Run, tmp_path: Path) -> None:
    code, out, err = run("datasets", "her2st", "-o", "her2st.h5ad")
    assert (code, err) == (0, "")
    assert "CC BY 4.0" in out
    assert "wrote her2st.h5ad" in out
    assert set(anndata.read_h5ad("her2st.h5ad").obs["section"]) == {"C2", "C3", "C4", "C5"}
    code, _, err = run("datasets", "her2st", "-o", "her2st.h5ad")
    assert (code, err) == (2, "expressor: her2st.h5ad exists. Give another -o; nothing was changed.\n")


# Fit, predict, describe -----------------------------------------------------------------------------------------------------


def test_fit_and_predict_give_what_python_gives(run: Run, ridge: Any, data: Path, tmp_path: Path) -> None:
    words = ("fit", "gene_ridge", str(data), "-o", "model", "--preset", "tiny", "--penalty", "3", "--plan.epochs", "4")
    code, out, err = run(*words)
    assert (code, out, err) == (0, "saved GeneRidge to model\n", "")
    code, out, err = run("predict", "model", str(data), "-o", "out/predicted.h5ad", "--key", "mine")
    assert (code, out, err) == (0, "wrote 84 observations to out/predicted.h5ad\n", "")
    by_hand = ridge.preset("tiny", penalty=3.0)
    by_hand.plan.set_params(epochs=4)
    found = anndata.read_h5ad(tmp_path / "out/predicted.h5ad")
    assert np.array_equal(found.obsm["mine"], by_hand.fit(example("histology")).predict(example("histology")))
    assert found.uns["mine"]["system"] == "gene_ridge"
    assert found.n_vars == 40


def test_predict_replaces_nothing_unless_asked(run: Run, ridge: Any, data: Path, tmp_path: Path) -> None:
    run("fit", "gene_ridge", str(data), "-o", "model", "--preset", "tiny")
    (tmp_path / "out.h5ad").write_text("precious")
    code, _, err = run("predict", "model", str(data), "-o", "out.h5ad")
    assert (code, err) == (2, "expressor: out.h5ad exists. Give another -o, or --overwrite; nothing was changed.\n")
    assert (tmp_path / "out.h5ad").read_text() == "precious"
    assert run("predict", "model", str(data), "-o", "out.h5ad", "--overwrite")[0] == 0
    code, _, err = run("predict", "model", "out.h5ad", "-o", "again.h5ad", "--key", "spatial")
    assert code == 2
    assert "the data already hold obsm['spatial']" in err
    assert not (tmp_path / "again.h5ad").exists()


def test_a_fit_is_resumed(run: Run, ridge: Any, data: Path, tmp_path: Path) -> None:
    words = ("fit", "gene_ridge", str(data), "--preset", "tiny", "--resume", "steps")
    assert run(*words, "-o", "short", "--plan.max-steps", "3")[0] == 0
    assert run(*words, "-o", "resumed")[0] == 0
    assert run("fit", "gene_ridge", str(data), "--preset", "tiny", "-o", "whole")[0] == 0
    for name in ("model.safetensors", "genes.tsv"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    code, _, err = run(*words, "-o", "other", "--penalty", "9")
    assert code == 2
    assert "holds checkpoints of another fit (its parameters differ)" in err


def test_describe_prints_methods_and_references(run: Run, ridge: Any, data: Path) -> None:
    run("fit", "gene_ridge", str(data), "-o", "model", "--preset", "tiny")
    code, out, _ = run("describe", "model")
    assert code == 0
    assert "was regressed on the features obsm['X_simulated']" in out
    assert "Technometrics 12, 55-67." in out


def test_the_command_runs_as_a_program(outside: Path, data: Path, tmp_path: Path) -> None:
    """Once through the installed script: exit codes and streams as a shell sees them."""
    script = Path(sys.executable).with_name("expressor")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "expressor"]
    done = subprocess.run([*words, "systems", "nope"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("expressor: no system is called 'nope'")
    done = subprocess.run([*words, "systems"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gene_ridge" in done.stdout
