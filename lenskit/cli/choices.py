"""What several commands let a person choose from."""

from enum import StrEnum


class Products(StrEnum):
    """How exactly float32 matrices are multiplied."""

    exact = "highest"
    fast = "medium"


class Keep(StrEnum):
    """How numbers are written."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
