"""A GGUF file with its matrices in float16, from one with quantised matrices.

llama.cpp multiplies quantised matrices with activations that it quantises to 8 bits as well; with float16
matrices it does not. docs/measurements says what that costs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.gguf_checkpoint import open_gguf

VERSION = 1
MOSTLY_FLOAT16 = 1
"""llama.cpp's number for `general.file_type`."""


def convert(source: Path, target: Path) -> None:
    """Write `target` with the metadata of `source`, matrices in float16 and vectors in float32."""
    from gguf import GGUFValueType, GGUFWriter, dequantize

    reader = open_gguf(source).reader
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = MOSTLY_FLOAT16 if key == "general.file_type" else field.contents()
        kind = field.types[0]
        writer.add_key_value(key, value, kind, sub_type=field.types[1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        writer.add_tensor(tensor.name, values.astype(np.float16) if len(shape) > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
