"""What the annotation of a handler's one argument says of the JSON objects that it takes."""

import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

#: The error that says what is wrong, and the mend.
Refuse = Callable[[str, str], Exception]


def annotation_of(handler: Callable[..., Any], parameter: str, name: str, what: str, refuse: Refuse) -> Any:
    """None: there is none. ``name``: the handler's, and ``what``: the argument's, as the author is told of them."""
    try:
        return typing.get_type_hints(handler, include_extras=True).get(parameter)
    except Exception as error:  # it is the author's code that is evaluated
        raise refuse(
            f"the annotation of {name} cannot be read: {error}",
            f"import the {what}'s type in the module itself, not under TYPE_CHECKING",
        ) from error


def takes_any_object(annotation: Any) -> bool:
    if annotation in (None, Any, dict, Mapping):
        return True
    return typing.get_origin(annotation) in (dict, Mapping) and typing.get_args(annotation) in (
        (str, Any),
        (str, object),
    )


def check_is_object(annotation: Any, name: str, what: str, refuse: Refuse) -> None:
    """Of a type that cannot be a JSON object nothing would ever be accepted."""
    try:
        described = msgspec.inspect.type_info(annotation)
        is_object = all(_is_object(part) for part in getattr(described, "types", (described,)))
        msgspec.json.Decoder(annotation)
    except Exception as error:  # unions that cannot be told apart, names that cannot be read
        is_object, why = False, f": {error}"
    else:
        why = ""
    if not is_object:
        raise refuse(
            f"{name} takes {annotation}, which is no JSON object{why}",
            f"annotate the {what} as a TypedDict, dataclass, msgspec Struct, or dict[str, Any]",
        )


def _is_object(described: Any) -> bool:
    while isinstance(described, msgspec.inspect.Metadata):
        described = described.type
    if isinstance(described, msgspec.inspect.StructType):
        return not described.array_like
    return isinstance(
        described,
        msgspec.inspect.TypedDictType | msgspec.inspect.DataclassType | msgspec.inspect.DictType,
    )
