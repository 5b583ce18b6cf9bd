"""Copy reference cases (numbers only) from a folder of records into this one."""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KEPT = ("source", "source_commit", "args", "convention", "inputs", "loss", "components", "issue")


def records(folder: Path) -> dict[str, dict]:
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {case["id"]: case for file in files for case in file.get("cases", [])}


def array(folder: Path, reference: str) -> tuple[str, np.ndarray]:
    """An array by its reference, `FILE:KEY` with words after it that must not change it."""
    file, _, key = reference.partition(":")
    name = key.split()[0].partition("[")[0]
    return name, np.load(folder / file, allow_pickle=False)[name]


def params(folder: Path, reference: str) -> dict[str, np.ndarray]:
    """The arrays of `FILE:METHOD/...`: all that the method has."""
    file, _, key = reference.partition(":")
    method = key.partition("/")[0] + "/"
    every = np.load(folder / file, allow_pickle=False)
    wanted = {name: every[name] for name in every if name.startswith(method)}
    return {name: values for name, values in wanted.items() if not name.endswith("f32")}


def take_features(folder: Path, names: list[str]) -> None:
    """Cases of losses on features: several inputs and gradients each, and weights of adapters."""
    cases_path, arrays_path = HERE / "features.json", HERE / "features.npz"
    cases, arrays, known = {}, {}, records(folder)
    for name in names:
        case = known[name] | {"issue": known[name].get("observed_issue")}
        inputs = {}
        for role, where in case["inputs"].items():
            if where.startswith("params"):
                found = params(folder, where)
                arrays |= {f"params/{key}": values for key, values in found.items()}
            else:
                key, values = array(folder, where)
                arrays[f"input/{key}"], inputs[role] = values, f"input/{key}"
        for role, gradient in case["grad"].items():
            arrays[f"gradient/{name}/{role}"] = array(folder, gradient["array"])[1]
        case["inputs"] = inputs
        cases[name] = {key: case[key] for key in KEPT if case.get(key) is not None}
    cases_path.write_text(json.dumps(dict(sorted(cases.items())), indent=1) + "\n")
    np.savez_compressed(arrays_path, **dict(sorted(arrays.items())))


def take(folder: Path, names: list[str]) -> None:
    cases_path, arrays_path = HERE / "cases.json", HERE / "arrays.npz"
    cases = json.loads(cases_path.read_text()) if cases_path.is_file() else {}
    arrays = dict(np.load(arrays_path, allow_pickle=False)) if arrays_path.is_file() else {}
    known = records(folder)
    for name in names:
        case = known[name] | {"issue": known[name].get("observed_issue")}
        wanted = {role: where for role, where in case["inputs"].items() if "hidden" not in role}
        inputs = {role: array(folder, where) for role, where in wanted.items()}
        if f"{case['method']}/*" in case["convention"]:
            where = f"params_{case['family']}.npz:{case['method']}/counts"
            inputs["counts"] = array(folder, where)
        arrays |= {f"input/{key}": values for key, values in inputs.values()}
        case["inputs"] = {role: f"input/{key}" for role, (key, _) in inputs.items()}
        for role, gradient in case["grad"].items():
            if role in ("student", "logits"):
                arrays[f"gradient/{name}"] = array(folder, gradient["array"])[1]
        cases[name] = {key: case[key] for key in KEPT if case.get(key) is not None}
    cases_path.write_text(json.dumps(dict(sorted(cases.items())), indent=1) + "\n")
    np.savez_compressed(arrays_path, **dict(sorted(arrays.items())))


if __name__ == "__main__":
    if sys.argv[2] == "--features":
        take_features(Path(sys.argv[1]), sys.argv[3:])
    else:
        take(Path(sys.argv[1]), sys.argv[2:])
