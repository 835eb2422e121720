"""The base of all records of `results.json`."""

import msgspec

Number = int | float


class Record(msgspec.Struct, frozen=True):
    """A record of `results.json`, whose declared fields determine writer, strict reader and JSON schema.

    Undeclared fields are ignored when read. A field of type `float | None` is None if the value was not measured or not
    finite.
    """
