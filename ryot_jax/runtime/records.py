"""The base of all records of `results.json`."""

import msgspec

Number = int | float


class Record(msgspec.Struct, frozen=True):
    """A record: its fields, declared once, are what is written, what is accepted when read, and the JSON schema.

    Fields beyond those declared are ignored when read. A field of type `float | None` is None where the value was not
    measured or was not finite.
    """
