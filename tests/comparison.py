"""Golden cases: what the upstream implementations answer, and how closely to meet it."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parent / "golden"


def nchw_to_nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1)


def nhwc_to_nchw(array: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(array), -1, -3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case: statement, rebuilt inputs and weights, stored answers."""

    name: str
    statement: dict[str, Any]
    answers: dict[str, np.ndarray]

    @property
    def config(self) -> dict[str, Any]:
        return self.statement["config"]

    def entries(self, name: str = "entries", node: dict[str, Any] | None = None) -> dict:
        """Recipe weights of the published entries listed under `name` (in `node` or the case)."""
        node = self.statement if node is None else node
        prefix = node.get("prefix", "")
        prefix = prefix.get(name, "") if isinstance(prefix, dict) else prefix
        constructed = set(node.get("constructed", ()))
        listed = {k: s for k, s in node[name].items() if k not in constructed}
        return recipe.state_dict(listed, prefix)

    def input(self, name: str) -> np.ndarray:
        entry = self.statement["inputs"][name]
        if entry["recipe"] == "literal":
            if "value" in entry:
                return np.asarray(entry["value"], entry.get("dtype"))
            return self.answers[name]
        values = getattr(recipe, entry["recipe"])(entry["recipe_name"], tuple(entry["shape"]))
        shift = np.float32(entry.get("offset", entry.get("shift", 0)))
        values = shift + np.float32(entry.get("scale", 1)) * values
        if "clip" in entry:
            values = values.clip(*entry["clip"])
        if entry.get("dtype") == "uint8":
            return np.floor(255 * values + 0.5).astype(np.uint8)
        return values.astype(np.float32)

    def output(self, name: str) -> np.ndarray:
        return self.answers[name]

    def assert_close(self, name: str, value: Any) -> None:
        """Fails unless `value` meets the stored answer within that output's own tolerance."""
        expected, value = self.answers[name], np.asarray(value)
        assert value.shape == expected.shape, f"{name}: {value.shape} is not {expected.shape}"
        tolerance = self.statement["outputs"][name]["tolerance"]
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance, err_msg=name)


def load_case(name: str) -> Case:
    folder = GOLDEN / name
    with np.load(folder / "arrays.npz") as arrays:
        answers = dict(arrays)
    return Case(name, json.loads((folder / "case.json").read_text()), answers)
