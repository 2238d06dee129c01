"""JSON records that hold a checksum of themselves, so that a changed digit is noticed.

    write_sealed(run / "calibration.json", calibration)
    read_sealed(run / "calibration.json", "lookalike verify score", Calibration)

What earlier versions wrote has no checksum: of that, only the form is checked.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.core.errors import UserError
from lookalike.core.files import write_json
from lookalike.core.readers import as_form, read_json

SEAL = "sha256"  # the key of the checksum


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record and its checksum as JSON, completely or not at all.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "x.json"
    >>> write_sealed(path, {"threshold": 0.5})
    >>> read_sealed(path, "x", dict[str, float])
    {'threshold': 0.5}
    """
    record = {name: value for name, value in record.items() if name != SEAL}
    write_json(path, record | {SEAL: _digest(record)})


def read_sealed(path: Path, made_by: str, form: Any) -> Any:
    """Return the record of a file that `write_sealed` wrote, without its checksum.

    Args:
        path: The file.
        made_by: The command that writes it, for the error message.
        form: The type that the record must have, see `readers.parse_json`.

    Raises:
        UserError: It is missing or damaged, has another form, or does not fit its checksum.
    """
    record = read_json(path, made_by, dict[str, Any])
    seal = record.pop(SEAL, None)
    try:
        if seal is not None and seal != _digest(record):
            raise UserError(f"{path}: was changed, it does not fit its checksum")
        return as_form(record, str(path), form)
    except UserError as error:
        raise UserError(f"{error}; make it anew with {made_by}") from error


def _digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record; its keys keep their order in the file."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
