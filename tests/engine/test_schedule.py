"""The schedule's records: what Python fills is what the compiled module reads."""

from types import SimpleNamespace

import numpy as np
import pytest

from lasfast.engine import resident, schedule
from lasfast.engine.schedule import Kind, fits, norm_fields, operation_fields, records, value_fields
from lasfast.runtime import compiled

pytestmark = pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")


def test_records_are_filled_by_name() -> None:
    values = records("Value", [value_fields(8, 3, 4, offset=64), value_fields(5, shared=True)])
    assert values["channels"].tolist() == [8, 5]
    assert values["height"].tolist() == [3, 1]
    assert values["width"].tolist() == [4, 1]
    assert values["shared"].tolist() == [0, 1]
    assert values["offset"].tolist() == [64, 0]
    (norm,) = records("Norm", [norm_fields(8, offset=16, eps=0.5)])
    assert norm.item() == (8, 16, 0.5, 0)
    (operation,) = records("Operation", [operation_fields(Kind.GATE, input=3, other=4, weight=1 << 40)])
    given = {name: int(operation[name]) for name in ("kind", "input", "other", "weight", "output", "stride")}
    assert given == {"kind": 7, "input": 3, "other": 4, "weight": 1 << 40, "output": -1, "stride": 1}


def test_a_record_with_other_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="Operation has no field outputs"):
        records("Operation", [operation_fields(Kind.INPUT, outputs=3)])
    with pytest.raises(KeyError, match="offset"):
        records("Norm", [{"channels": 8}])


def test_numbers_are_those_of_native_code() -> None:
    module = compiled.load()
    assert module.kinds == {kind.name.lower(): kind.value for kind in Kind}
    assert module.schedule_limits == {
        "max_kernel": schedule.MAX_KERNEL,
        "cuda_channels": schedule.CUDA_CHANNELS,
        "resident_alignment": resident.ALIGNMENT,
    }


def test_a_module_with_other_records_or_kinds_does_not_fit() -> None:
    module = compiled.load()
    assert fits(module)
    assert not fits(SimpleNamespace())
    fields = module.records["Operation"].fields.items()
    renamed = np.dtype([(name.replace("tile", "cut"), dtype) for name, (dtype, _) in fields])
    assert not fits(SimpleNamespace(records=module.records | {"Operation": renamed}, kinds=module.kinds))
    assert not fits(SimpleNamespace(records=module.records, kinds=module.kinds | {"opaque": 10}))
