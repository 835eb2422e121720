"""Texts of a Hugging Face dataset, streamed.

The only module that imports `datasets`, and only when texts are read: a warm start from the cache needs
neither the package nor the network.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ryot_jax.data import text_files
from ryot_jax.runtime.errors import DataError


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a Hugging Face dataset, by the arguments of `datasets.load_dataset`.

    Attributes:
      name: name on the Hub, a local folder of data files, or a format ('json', 'parquet', 'text', 'csv').
      config: name of the dataset's configuration, '' for the default.
      split: name of the split, such as 'train'.
      data_files: file or glob for a format, '' for none.
      field: the column that holds the text.
    """

    name: str
    config: str
    split: str
    data_files: str
    field: str

    def identity(self) -> dict[str, Any]:
        """A JSON value that stays equal as long as the texts do.

        Local files count by size and time of change. A dataset on the Hub counts by its name: the cache
        does not see a later revision.

        Raises:
          DataError: `data_files` names no file.
        """
        identity: dict[str, Any] = {"kind": "hf", **dataclasses.asdict(self)}
        if self.data_files:
            identity["files"] = text_files.fingerprint(text_files.find("data.path", self.data_files))
        elif Path(self.name).is_dir():
            identity["root"] = str(Path(self.name).absolute())
            identity["files"] = text_files.fingerprint(text_files.walk(Path(self.name)))
        return identity

    def texts(self) -> Iterator[str]:
        """The text of each row, in the dataset's order.

        Raises:
          DataError: `datasets` is not installed, the dataset cannot be loaded, or a row has no text.
        """
        load_dataset = _load_dataset()
        place = f"data.source = 'hf:{self.name}'"
        try:
            rows = iter(
                load_dataset(
                    self.name,
                    self.config or None,
                    data_files=self.data_files or None,
                    split=self.split,
                    streaming=True,
                )
            )
        except Exception as error:  # a wrong name, split, file or network each raise another type
            raise DataError(
                f"{place} (hf_config = {self.config!r}, hf_split = {self.split!r}) cannot be loaded: "
                f"{type(error).__name__}: {error}; check the name, the split and the network"
            ) from error
        index = 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(
                    f"{place}: reading stopped at row {index}: {type(error).__name__}: {error}; "
                    "check the data there and the network"
                ) from error
            yield text_files.field_text(row, self.field, f"{place}, row {index}")
            index += 1


def _load_dataset() -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            "data.source = 'hf:...' needs the package `datasets`; install the extra `datasets`: "
            "pip install 'ryot_jax[datasets]'"
        ) from error
    return load_dataset
